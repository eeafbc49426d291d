"""What training costs: tokens a second, waiting for data, memory, padding; and how long it took in all."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import lightning as L
import torch
from torch.optim import Optimizer

from callbacks.guards import gradient_norm
from callbacks.records import merge_scores
from callbacks.schedule import Scheduled
from unifluid.sequence import Batch


def scheduled_seconds(trainer: L.Trainer) -> float:
    """Time spent so far in evaluation and samples, which is no training."""
    return sum(callback.seconds for callback in trainer.callbacks if isinstance(callback, Scheduled))


class Throughput(L.Callback):
    """Logs, averaged over the last `every` optimizer steps and over all ranks, without validation and evaluation:

    throughput/tokens, /text_tokens, /image_tokens: a second; image tokens are those drawn and those looked at
    throughput/images: a second
    throughput/step_seconds
    throughput/data_wait: share of the time spent waiting for batches
    throughput/padding: share of positions that are padding
    throughput/memory_gib: peak on the accelerator, or of the process where there is none
    train/gradient_norm: of this step, before clipping

    The device is waited for on those steps only.
    """

    def __init__(self, every: int = 50):
        if every < 1:
            raise ValueError(f"Throughput.every must be at least 1 step, got {every}")
        self.every = every
        self._validation_seconds = 0.0

    # -- the clock ----------------------------------------------------------------------------------------------

    def _now(self, trainer: L.Trainer) -> float:
        """Seconds that count: the clock stands still in validation and in scheduled callbacks."""
        return time.monotonic() - self._validation_seconds - scheduled_seconds(trainer)

    def _open(self, trainer: L.Trainer) -> None:
        """Begin to count anew."""
        self._start = self._idle_since = self._now(trainer)
        self._waited, self._counts = 0.0, Counter[str]()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step
        self._open(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_start = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._validation_seconds += time.monotonic() - self._validation_start

    # -- counting -----------------------------------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._waited += self._now(trainer) - self._idle_since
        image_tokens = batch.target_index.numel() + batch.image_index.numel()
        self._counts.update(
            text_tokens=batch.text_ids.numel(),
            image_tokens=image_tokens,
            tokens=batch.text_ids.numel() + image_tokens,
            images=len(batch.target_rows) + len(batch.images),
            positions=batch.layout.segments.numel(),
        )

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        step = trainer.global_step + 1
        if step % self.every == 0:
            log(trainer, {"train/gradient_norm": gradient_norm(optimizer).item()}, step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self._counts["steps"] += 1
            if self._step % self.every == 0:
                log(trainer, self._measure(trainer), self._step)
                self._open(trainer)
        self._idle_since = self._now(trainer)

    def _measure(self, trainer: L.Trainer) -> dict[str, float]:
        device, counts = trainer.strategy.root_device, self._counts
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = self._now(trainer) - self._start
        rates = {
            name: counts[name] * trainer.world_size / seconds
            for name in ("tokens", "text_tokens", "image_tokens", "images")
        }
        values = rates | {
            "step_seconds": seconds / counts["steps"],
            "data_wait": self._waited / seconds,
            "padding": 1 - counts["tokens"] / counts["positions"],
            "memory_gib": peak_memory(device) / 2**30,
        }
        return {f"throughput/{name}": value for name, value in values.items()}


class TrainSeconds(L.Callback):
    """Time spent training, over all resumed parts, without scheduled evaluation: `train/seconds` in scores.json."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.seconds = state_dict["seconds"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = time.monotonic() - scheduled_seconds(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        now = time.monotonic() - scheduled_seconds(trainer)
        self.seconds, self._mark = self.seconds + now - self._mark, now

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            merge_scores(trainer.default_root_dir, {"train/seconds": round(self.seconds, 1)})


def log(trainer: L.Trainer, values: dict[str, float], step: int) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(values, step)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the accelerator where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # absent on Windows
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
