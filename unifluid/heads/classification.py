"""Text head: a classification over the vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

from unifluid.interfaces import TextHead


class ClassificationHead(TextHead):
    """Logits h Wᵀ, softly capped to ± `softcap` where one is given (30 in Gemma 2, 2408.00118).

    `max_logits` bounds how many logits the loss holds at once, forward and backward: larger batches are cut into chunks
    whose logits are computed again in the backward pass.
    """

    def __init__(self, softcap: float | None = None, max_logits: int = 2**27) -> None:
        super().__init__()
        if softcap is not None and softcap <= 0:
            raise ValueError(f"softcap must be positive, or null for none, got {softcap}")
        if max_logits < 1:
            raise ValueError(f"max_logits must be at least 1, got {max_logits}")
        self.softcap = softcap
        self.max_logits = max_logits

    def logits(self, h: Tensor, weight: Tensor) -> Tensor:
        logits = linear(h, weight)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def loss(self, h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        rows = max(1, self.max_logits // len(weight))
        if len(h) <= rows:
            return self._loss(h, weight, targets)
        chunks = zip(h.split(rows), targets.split(rows), strict=True)
        losses = [
            checkpoint(self._loss, part, weight, labels, use_reentrant=False, preserve_rng_state=False)
            for part, labels in chunks
        ]
        return torch.cat(losses)

    def _loss(self, h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.logits(h, weight), targets, reduction="none")
