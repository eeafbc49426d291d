"""Guards: what keeps one bad batch from ruining a run."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from unifluid.sequence import Batch
from unifluid.shards import whole


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Norm of all gradients, over all shards: all ranks must ask for it."""
    return whole(get_total_norm([p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]))


class NonFiniteGuard(L.Callback):
    """Skips an optimizer step whose loss or gradients are not finite, on all ranks together.

    A skipped step drops its gradients: optimizers pass over parameters without one, so weights and optimizer state
    stay as they are, while data, schedule and step count go on. The count of skipped steps is logged as
    `train/skipped_steps` and kept in checkpoints. Raises ValueError, naming the examples, after `patience` in a row.
    """

    def __init__(self, patience: int = 10):
        if patience < 1:
            raise ValueError(f"NonFiniteGuard.patience must be at least 1 step, got {patience}")
        self.patience = patience
        self.skipped = self.in_a_row = 0
        self._losses: list[Tensor] = []  # of the batches accumulated for the next step
        self._ids: list[str] = []

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._ids += batch.ids

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        # One value to wait for: any infinity or NaN in a loss or a gradient makes this sum infinite or NaN.
        total = torch.stack([gradient_norm(optimizer).float(), *(loss.float() for loss in self._losses)]).sum()
        finite = trainer.strategy.reduce_boolean_decision(bool(total.isfinite()), all=True)
        ids, self._ids, self._losses = self._ids, [], []
        self.in_a_row = 0 if finite else self.in_a_row + 1
        if not finite:
            self._skip(trainer, optimizer, ids)

    def _skip(self, trainer: L.Trainer, optimizer: Optimizer, ids: list[str]) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.skipped += 1
        step = trainer.global_step + 1
        rank_zero_warn(f"step {step}: loss or gradients are not finite, skipped ({self.skipped} skipped so far)")
        for logger in trainer.loggers:
            logger.log_metrics({"train/skipped_steps": self.skipped}, step)
        if self.in_a_row >= self.patience:
            raise ValueError(
                f"step {step}: loss or gradients were not finite in {self.in_a_row} steps in a row: nothing is "
                f"learned any more; the last one held the examples {', '.join(ids)}"
            )
