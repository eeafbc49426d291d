"""The checkpoint from which an interrupted run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from unifluid.storage import LAST


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` in the run's folder, the one before as `last.previous.ckpt`.

    Args:
        every: optimizer steps between saves; it is saved at the end of training, too, and on SIGTERM.
    """

    def __init__(self, every: int = 500):
        if every < 1:
            raise ValueError(f"checkpoint.every must be at least 1 step, got {every}")
        self.every = every
        self._saved = 0  # the step last saved, or resumed from

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # The last step is saved here, before the scores that other callbacks take at the end of training.
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # Raised between batches. Between those that are accumulated for one step there is nothing to go on from.
        ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if isinstance(exception, SIGTERMException) and ready % trainer.accumulate_grad_batches == 0:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.global_step == self._saved or trainer.fast_dev_run:  # also while gradients accumulate
            return
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST, weights_only=False)
        self._saved = trainer.global_step
