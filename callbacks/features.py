"""Features of pictures, by an image encoder that the kit has trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unifluid.checkpoints import read
from unifluid.interfaces import FeatureExtractor, ImageEncoder
from unifluid.sequence import to_unit

BATCH = 256  # pictures at once


class EncoderFeatures(FeatureExtractor):
    """The image encoder of a contrastive run, averaged over its tokens.

    Args:
        checkpoint: of that run, or an exported folder; its EMA where it has one.
        name: of these features, in the names of scores.
    """

    def __init__(self, checkpoint: str | Path, name: str = "encoder"):
        self.checkpoint, self.name = checkpoint, name
        self._encoder: ImageEncoder | None = None

    def load(self) -> None:
        """Raises ValueError or FileNotFoundError naming the checkpoint."""
        if self._encoder is None:
            stored = read(self.checkpoint)
            encoder = getattr(stored.build(), "encoder", None)
            if not isinstance(encoder, ImageEncoder):
                raise ValueError(f"{self.checkpoint}: holds {stored.config['class_path']}, which is no contrastive run")
            self._encoder = encoder.requires_grad_(False)

    def extract(self, images: Sequence[Tensor], device: torch.device) -> Tensor:
        encoder = self._encoder.to(device)
        parts = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            made = [encoder(self._batch(part).to(device)).mean(1).cpu() for part in parts]
        return torch.cat(made)

    def _batch(self, images: Sequence[Tensor]) -> Tensor:
        return torch.stack([to_unit(image, self._encoder.image_size) for image in images])
