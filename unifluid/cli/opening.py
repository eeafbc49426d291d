"""What `fit` says as it starts: what will be done, where to look, and after some steps how long it takes here."""

from __future__ import annotations

import os
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich import get_console

from callbacks.samples import FILE, SampleGrid
from unifluid.cli.display import total_steps

WARM_UP, MEASURED = 5, 25  # steps: the first ones allocate and compile


class Opening(L.Callback):
    """On rank 0, above the progress bar."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first = self._step = trainer.global_step
        self._say(trainer, f"{self._task(trainer)}, {machine(trainer)}")
        folder = trainer.default_root_dir
        if any(isinstance(callback, SampleGrid) for callback in trainer.callbacks):
            self._say(trainer, f"pictures to look at, from time to time: {folder}/{FILE}")
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
            self._say(trainer, f"curves: tensorboard --logdir {folder}")
        self._say(trainer, "Ctrl-C saves and stops; the same command goes on from there")

    def _task(self, trainer: L.Trainer) -> str:
        total, rows = total_steps(trainer), getattr(trainer.datamodule, "rows_per_step", None)
        steps = f"{total:,} steps" if total < float("inf") else "steps without end"
        first = f"from step {self._first:,} to {total:,}" if self._first else steps
        return f"training {first}" + (f" of {rows} rows" if rows else "")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step:  # gradients accumulate
            return
        self._step = trainer.global_step
        done, left = self._step - self._first, total_steps(trainer) - self._step
        if done == WARM_UP:
            self._start = time.monotonic()
        elif done == WARM_UP + MEASURED and MEASURED < left < float("inf"):
            seconds = (time.monotonic() - self._start) / MEASURED
            self._say(trainer, f"{left:,} more steps: about {duration(seconds * left)} on this machine, scores apart")

    def _say(self, trainer: L.Trainer, line: str) -> None:
        if trainer.is_global_zero:
            get_console().print(line, soft_wrap=True, highlight=False, markup=False)


def machine(trainer: L.Trainer) -> str:
    """What the run computes on, and how."""
    device, n = trainer.strategy.root_device, trainer.world_size
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    if device.type == "cpu":
        kind += f" with {torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"on {f'{n} × ' if n > 1 else ''}{kind}, {trainer.precision}"


def duration(seconds: float) -> str:
    """34 minutes, 5 hours: as exact as a measurement of some steps can be."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
