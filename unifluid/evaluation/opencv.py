"""A detector that OpenCV reads: networks of TensorFlow's model zoo that give boxes, such as SSD-MobileNet-v2 on COCO.

For checks without a large network, never for a published number: it finds less, and knows boxes instead of masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unifluid.evaluation.coco import NAME_BY_ID
from unifluid.evaluation.mask2former import first_line
from unifluid.interfaces import Detection, Detector


class OpenCVDetector(Detector):
    """Boxes by a frozen graph; a box is taken for the object's mask.

    Args:
        graph: frozen_inference_graph.pb.
        config: the .pbtxt that goes with it.
        size: pixels of the square the network sees.
        least: detections below this score are left out.
    """

    suffix = "_boxes"

    def __init__(self, graph: str, config: str, size: int = 300, least: float = 0.05):
        self.graph, self.config, self.size, self.least = graph, config, size, least
        self._net: Any = None

    def about(self) -> dict[str, Any]:
        return {"detector": f"boxes by {Path(self.config).stem}"}

    def load(self) -> None:
        """Raises ValueError naming the file or the missing library."""
        if self._net is not None:
            return
        for path in (self.graph, self.config):
            if not Path(path).is_file():
                raise ValueError(f"{path}: no such file of a detector")
        try:
            import cv2
        except ModuleNotFoundError as error:
            raise ValueError("this detector needs OpenCV: pip install 'unifluid[detection]'") from error
        try:
            self._net = cv2.dnn.readNetFromTensorflow(self.graph, self.config)
        except cv2.error as error:
            raise ValueError(f"{self.graph}: no network that OpenCV reads ({first_line(error)})") from error

    def detect(self, images: Sequence[Tensor], device: torch.device) -> list[list[Detection]]:
        """Images (3, H, W) uint8 -> detections, the surest first. On the CPU, whatever `device` is."""
        self.load()
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> list[Detection]:
        import cv2

        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        self._net.setInput(cv2.dnn.blobFromImage(pixels, size=(self.size, self.size), swapRB=False, crop=False))
        found = self._net.forward()[0, 0]  # (n, 7): image, class, score, x0, y0, x1, y1 as shares of the sides
        kept = [row for row in found if row[2] > self.least and int(row[1]) in NAME_BY_ID]
        return [self._detection(row, *image.shape[-2:]) for row in sorted(kept, key=lambda row: -row[2])]

    def _detection(self, row: np.ndarray, height: int, width: int) -> Detection:
        x0, x1 = (row[[3, 5]] * width).round().clip(0, width).astype(int)
        y0, y1 = (row[[4, 6]] * height).round().clip(0, height).astype(int)
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = True
        return Detection(NAME_BY_ID[int(row[1])], float(row[2]), mask, (float(x0), float(y0), float(x1), float(y1)))
