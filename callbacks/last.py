"""The checkpoint from which an interrupted run goes on."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.ema import find_ema
from unifluid.storage import LAST


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` in the run's folder, the one before as `last.previous.ckpt`.

    Args:
        every: optimizer steps between saves; it is saved at the end of training, too, on SIGTERM and on Ctrl-C.
        minutes: saved also when the last save is this long ago, for slow steps; null: by steps alone.

    Ctrl-C ends the run after the step that is under way; a second one ends it at once.
    """

    def __init__(self, every: int = 500, minutes: float | None = 2.0):
        if every < 1:
            raise ValueError(f"checkpoint.every must be at least 1 step, got {every}")
        if minutes is not None and not minutes > 0:
            raise ValueError(f"checkpoint.minutes must be above 0, or null for none, got {minutes}")
        self.every, self.minutes = every, minutes
        self._saved = 0  # the step last saved, or resumed from
        self.interrupted = False

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.training and checkpoint.get("ema") and find_ema(trainer) is None:
            rank_zero_warn("this run keeps no average, so the checkpoint's EMA weights end here: add callbacks.EMA")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = self._step = trainer.global_step
        self._time = time.monotonic()  # of the last save
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in the background
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, *_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # for the second
        self.interrupted = True
        rank_zero_info("\nCtrl-C: finishing this step, then saving; once more to stop at once")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if signal.getsignal(signal.SIGINT) == self._interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        stepped, self._step = trainer.global_step != self._step, trainer.global_step
        # The last step is saved here, before the scores that other callbacks take at the end of training.
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._save(trainer)
        elif stepped and self._overdue(trainer):
            self._save(trainer)
        if stepped and trainer.world_size > 1:
            self.interrupted = trainer.strategy.reduce_boolean_decision(self.interrupted, all=False)
        if stepped and self.interrupted:
            signal.raise_signal(signal.SIGTERM)  # the trainer ends between two batches, on all ranks

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._save(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # Raised between batches. Between those that are accumulated for one step there is nothing to go on from.
        ready = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if isinstance(exception, SIGTERMException) and ready % trainer.accumulate_grad_batches == 0:
            self._save(trainer)
            if self.interrupted:
                rank_zero_info(f"saved at step {self._saved}: the same command goes on from there")

    def _overdue(self, trainer: L.Trainer) -> bool:
        """Whether it is for any rank: all must save at the same step."""
        if self.minutes is None:
            return False
        overdue = time.monotonic() - self._time >= 60 * self.minutes
        return trainer.strategy.reduce_boolean_decision(overdue, all=False) if trainer.world_size > 1 else overdue

    def _save(self, trainer: L.Trainer) -> None:
        if trainer.global_step == self._saved or trainer.fast_dev_run:  # also while gradients accumulate
            return
        trainer.save_checkpoint(Path(trainer.default_root_dir) / LAST, weights_only=False)
        self._saved, self._time = trainer.global_step, time.monotonic()
