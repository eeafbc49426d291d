"""GenEval's detector: Mask2Former (Swin-S, COCO instances), with the post-processing of the official evaluation.

The network is the transformers library's, from a local folder. Its deformable attention is plain PyTorch, where users
of the official stack report scores near zero from a CUDA kernel on some GPUs. The library's own post-processing is
another one (masks at another size, blown up by nearest neighbour), so the network's outputs are processed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unifluid.evaluation.coco import NAMES
from unifluid.interfaces import Detection, Detector

MAX_DETECTIONS = 100  # of query × class, before any threshold
BATCH = 8  # images at once
FILES = ("config.json", "preprocessor_config.json")


class Mask2Former(Detector):
    """Instances in images, in full precision whatever surrounds it: GenEval's thresholds are sensitive to it.

    Args:
        folder: config.json, preprocessor_config.json and model.safetensors, as the hub has them for
            facebook/mask2former-swin-small-coco-instance. GenEval's own weights are mmdetection's, of the same
            architecture and another training: say which with the score.
        least: detections below this score are left out (GenEval counts none of .3 or below).
    """

    def __init__(self, folder: str, least: float = 0.05):
        self.folder, self.least = folder, least
        self._net: nn.Module | None = None

    def about(self) -> dict[str, Any]:
        return {"detector": f"Mask2Former of {Path(self.folder).name}"}

    def load(self) -> None:
        """Raises ValueError naming the folder and what is missing in it."""
        if self._net is not None:
            return
        need_files(self.folder, *FILES)
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        try:
            options = {"local_files_only": True}
            net = Mask2FormerForUniversalSegmentation.from_pretrained(
                self.folder, use_safetensors=True, dtype=torch.float32, **options
            )
            self._processor = AutoImageProcessor.from_pretrained(self.folder, **options)
        except (OSError, ValueError, RuntimeError) as error:
            reason = first_line(error)
            raise ValueError(f"{self.folder}: no Mask2Former of the transformers library ({reason})") from error
        if net.config.num_labels != len(NAMES):
            raise ValueError(f"{self.folder}: a detector of {net.config.num_labels} classes, COCO's instances have 80")
        self._net = net.requires_grad_(False).eval()

    def detect(self, images: Sequence[Tensor], device: torch.device) -> list[list[Detection]]:
        """Images (3, H, W) uint8 -> detections, the surest first. Those that are not square are stretched."""
        self.load()
        net, found = self._net.to(device), []
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for batch in batches(images):
                x = self._processor(images=batch, return_tensors="pt")["pixel_values"].to(device)
                out = net(pixel_values=x)
                size, seen = tuple(batch[0].shape[-2:]), tuple(x.shape[-2:])
                for classes, masks in zip(out.class_queries_logits, out.masks_queries_logits, strict=True):
                    found.append(instances(classes, masks, seen, size, self.least))
        return found


def batches(images: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Consecutive images of one size, `BATCH` at most."""
    for _, group in groupby(images, key=lambda image: tuple(image.shape)):
        same = list(group)
        yield from (same[start : start + BATCH] for start in range(0, len(same), BATCH))


def instances(
    classes: Tensor, masks: Tensor, network_size: tuple[int, int], size: tuple[int, int], least: float
) -> list[Detection]:
    """What mmdetection makes of one image's queries: class logits (Q, C + 1), mask logits (Q, h, w).

    Masks are resized to the network's input, then to the image, bilinearly. Of all pairs of query and class, without
    "no object", the hundred most probable are kept; a mask is where its logit is above 0, and the score is the class
    probability times the mean mask probability inside the mask. Empty masks are left out.
    """
    masks = interpolate(masks[None], network_size, mode="bilinear", align_corners=False)
    masks = interpolate(masks, size, mode="bilinear", align_corners=False)[0]
    probabilities = classes.softmax(-1)[:, :-1].flatten()
    top, index = probabilities.topk(min(MAX_DETECTIONS, len(probabilities)))
    number = classes.shape[-1] - 1
    logits = masks[index // number]
    inside = logits > 0
    area = inside.flatten(1).sum(1)
    mean = (logits.sigmoid() * inside).flatten(1).sum(1) / (area + 1e-6)
    scores = top * mean
    kept = ((area > 0) & (scores > least)).nonzero().flatten()
    kept = kept[scores[kept].argsort(descending=True, stable=True)].tolist()
    inside, names = inside.cpu().numpy(), (index % number).tolist()
    return [Detection(NAMES[names[i]], scores[i].item(), inside[i], box_of(inside[i])) for i in kept]


def box_of(mask: Any) -> tuple[float, float, float, float]:
    """The box (x0, y0, x1, y1) around a mask (H, W) that is not empty; x1 and y1 are one beyond."""
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def need_files(folder: str, *names: str) -> None:
    """Raises ValueError naming what is missing in a folder of pretrained files."""
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder of pretrained files")
    missing = [name for name in names if not (Path(folder) / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: holds no {', '.join(missing)}")


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
