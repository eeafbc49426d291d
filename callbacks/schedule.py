"""When a callback runs: every so many optimizer steps or epochs, at the start, at the end, in validate and test."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, Literal

import lightning as L

Stage = Literal["fit", "validate", "test"]


class Scheduled(L.Callback, ABC):
    """Calls `run` at fixed optimizer steps, which a resumed run does not shift, and never in the sanity check.

    Inside `fit` the trainer's own validation does not trigger it; `validate` and `test` do, on a checkpoint as well.

    Args:
        every: optimizer steps between runs; None for none during training.
        at_end: run at the end of training, unless that very step was due anyway.
        every_epochs: epochs between runs; None for none.
        at_start: run before the first step of a fresh run.
    """

    def __init__(
        self,
        every: int | None = None,
        at_end: bool = True,
        every_epochs: int | None = None,
        at_start: bool = False,
    ):
        for name, value in (("every", every), ("every_epochs", every_epochs)):
            if value is not None and value < 1:
                raise ValueError(f"{type(self).__name__}.{name} must be at least 1, or null for never, got {value}")
        self.every, self.at_end, self.every_epochs, self.at_start = every, at_end, every_epochs, at_start
        self.step = 0  # optimizer steps the weights have had
        self.seconds = 0.0  # spent in `run`, which is no training time
        self._last: int | None = None

    @abstractmethod
    def run(self, trainer: L.Trainer, module: L.LightningModule, stage: Stage) -> None:
        """The work. Called on every rank, outside autocast, with the live weights of training."""

    def check(self, module: L.LightningModule) -> None:  # noqa: B027 - most need nothing
        """What the model, which is built by now, cannot do should stop the run before it starts. Raises ValueError."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.check(pl_module)

    on_validation_start = on_test_start = on_fit_start

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.step, self._last = trainer.global_step, None
        if self.at_start and self.step == 0:
            self._timed_run(trainer, pl_module, "fit")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step:  # gradients still accumulate
            return
        self.step = trainer.global_step
        if self.every and self.step % self.every == 0:
            self._timed_run(trainer, pl_module, "fit")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        due = self.every_epochs and (trainer.current_epoch + 1) % self.every_epochs == 0
        if due and self._last != self.step:
            self._timed_run(trainer, pl_module, "fit")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.at_end and self._last != self.step:
            self._timed_run(trainer, pl_module, "fit")

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.step = checkpoint["global_step"]  # outside `fit` the trainer does not know it

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._timed_run(trainer, pl_module, "validate")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._timed_run(trainer, pl_module, "test")

    def _timed_run(self, trainer: L.Trainer, module: L.LightningModule, stage: Stage) -> None:
        start = time.monotonic()
        self.run(trainer, module, stage)
        self.seconds += time.monotonic() - start
        self._last = self.step
