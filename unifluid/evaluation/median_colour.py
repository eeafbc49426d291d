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
        rows = slice(int(y0 + (y1 - y0) / 4), max(int(y1 - (y1 - y0) / 4), int(y0 + (y1 - y0) / 4) + 1))
        columns = slice(int(x0 + (x1 - x0) / 4), max(int(x1 - (x1 - x0) / 4), int(x0 + (x1 - x0) / 4) + 1))
        mask = np.asarray(detection.mask, bool)
        inside = pixels[rows, columns][mask[rows, columns]]
        median = np.median(inside if len(inside) else pixels[mask], axis=0)
        names = list(PAINT)
        palette = np.array([ImageColor.getrgb(PAINT[name]) for name in names])
        return names[int(((palette - median) ** 2).sum(1).argmin())]
