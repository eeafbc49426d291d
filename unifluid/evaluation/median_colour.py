"""A colour classifier without a network: the colour nearest to an object's median pixel. For checks where no CLIP is at
hand, never for a published number."""

from __future__ import annotations

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from unifluid.evaluation.known import PAINT
from unifluid.interfaces import ColourClassifier, Detection


class MedianColour(ColourClassifier):
    """Compares the median of the middle of each object's box, where the mask is, with ten CSS colours."""

    suffix = "_median_colour"

    def colours(self, image: Tensor, detections: list[Detection], device: torch.device) -> list[str]:
        pixels = image.permute(1, 2, 0).numpy().astype(np.float64)
        return [self._name(pixels, detection) for detection in detections]

    def _name(self, pixels: np.ndarray, detection: Detection) -> str:
        x0, y0, x1, y1 = detection.box
        mask, middle = np.asarray(detection.mask, bool), (_middle(y0, y1), _middle(x0, x1))
        inside = pixels[middle][mask[middle]]
        median = np.median(inside if len(inside) else pixels[mask], axis=0)
        names = list(PAINT)
        palette = np.array([ImageColor.getrgb(PAINT[name]) for name in names])
        return names[int(((palette - median) ** 2).sum(1).argmin())]


def _middle(low: float, high: float) -> slice:
    """The middle half of a side, a pixel at least."""
    start, stop = int(low + (high - low) / 4), int(high - (high - low) / 4)
    return slice(start, max(stop, start + 1))
