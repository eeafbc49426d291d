"""Shared by the tests of the command line: a tiny run, and `main` with its exit code and what it printed."""

from __future__ import annotations

import signal
from pathlib import Path

import lightning as L
import torch

from unifluid.cli.main import main

TINY = Path(__file__).with_name("tiny.yaml")


class Interrupt(L.Callback):
    """Ctrl-C after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_fit_start(self, *_):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGINT)


class Terminate(L.Callback):
    """SIGTERM after a batch."""

    def __init__(self, batch: int):
        self.batch = batch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            signal.raise_signal(signal.SIGTERM)


class FailInValidation(L.Callback):
    def on_validation_batch_end(self, trainer, *_):
        if not trainer.sanity_checking:
            raise ValueError("failed in validation")


class Steps(L.Callback):
    """Where the last run validated, and the ids of each of its batches."""

    validated: list[int]
    ids: list[tuple[str, ...]]

    def __init__(self):
        Steps.validated, Steps.ids = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        Steps.ids.append(tuple(batch.ids))

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            Steps.validated.append(trainer.global_step)


def fit_arguments(folder: Path, *more: str) -> list[str]:
    quiet = ["--trainer.enable_model_summary=false", f"--trainer.default_root_dir={folder}"]
    return ["fit", "--config", str(TINY), "--allow-module", "tiny", *quiet, *more]


def error_line(capsys, *args: str) -> str:
    """The one line that a mistaken command prints to stderr; it ends with exit code 2."""
    capsys.readouterr()
    code = main([str(a) for a in args])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("unifluid: ")]
    assert code == 2
    assert len(lines) == 1
    assert lines[0].startswith("unifluid: error: ")
    assert "Traceback" not in lines[0]
    return lines[0].removeprefix("unifluid: error: ")


def same_training_state(one: Path, other: Path) -> None:
    """Weights, averages and optimizer of two checkpoints are bitwise equal."""
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    assert a["config"] == b["config"]
    for key in ("global_step", "state_dict", "ema", "optimizer_states", "lr_schedulers", "tokenizer"):
        torch.testing.assert_close(a.get(key), b.get(key), rtol=0, atol=0)
