"""Features of pictures, by an encoder that the kit has trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from unifluid.checkpoints import read
from unifluid.interfaces import FeatureExtractor, ImageEncoder
from unifluid.sequence import to_unit

BATCH = 256  # pictures at once


class EncoderFeatures(FeatureExtractor):
    """The features of a contrastive run (`unifluid.modules.contrastive`).

    Args:
        checkpoint: of that run, or an exported folder; its EMA where it has one.
        name: of these features, in the names of scores.
    """

    def __init__(self, checkpoint: str | Path, name: str = "encoder"):
        self.checkpoint, self.name = checkpoint, name
        self._module: L.LightningModule | None = None

    def load(self) -> None:
        """Raises ValueError or FileNotFoundError naming the checkpoint."""
        if self._module is None:
            stored = read(self.checkpoint)
            module = stored.build()
            if not isinstance(getattr(module, "encoder", None), ImageEncoder):
                raise ValueError(f"{self.checkpoint}: holds {stored.config['class_path']}, which is no contrastive run")
            self._module = module.requires_grad_(False)

    def extract(self, images: Sequence[Tensor], device: torch.device) -> Tensor:
        module, size = self._module.to(device), self._module.encoder.image_size
        made = []
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for start in range(0, len(images), BATCH):
                batch = torch.stack([to_unit(image, size) for image in images[start : start + BATCH]])
                made.append(module(batch.to(device)).cpu())
        return torch.cat(made)
