"""What the Trainer's flags do in a run: each works as its name says, or is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.runs import Steps, error_line, fit_arguments

from unifluid.cli.main import main


def flags(folder: Path, *options: str) -> list[str]:
    watched = ["--trainer.callbacks+=cli.runs.Steps", "--allow-module", "cli"]
    return fit_arguments(folder, "--trainer.logger=false", "--trainer.max_steps=4", *watched, *options)


def test_intervals_count_optimizer_steps(tmp_path):
    assert main(flags(tmp_path, "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=2")) == 0
    assert Steps.validated == [2, 4]


@pytest.mark.parametrize("batches", ["4", "0.2"])  # of ten steps of two batches
def test_overfitting_repeats_its_batches(tmp_path, batches):
    options = [f"--trainer.overfit_batches={batches}", "--trainer.accumulate_grad_batches=2"]
    options += ["--data.init_args.steps_per_epoch=10", "--trainer.val_check_interval=1.0"]
    assert main(flags(tmp_path, *options)) == 0
    assert len(Steps.ids) == 8 and Steps.ids[:4] == Steps.ids[4:] and len(set(Steps.ids)) == 4


EARLY = ["--trainer.callbacks+=EarlyStopping", "--trainer.val_check_interval=1"]
REFUSED = {
    "a part of a step to overfit": (
        ["--trainer.overfit_batches=1", "--trainer.accumulate_grad_batches=2"],
        "trainer.overfit_batches 1 ends inside a step of accumulate_grad_batches 2 batches",
    ),
    "epochs of a step and a half": (
        ["--trainer.limit_train_batches=3", "--trainer.accumulate_grad_batches=2"],
        "trainer.limit_train_batches 3 ends inside a step",
    ),
    "a share of an epoch that is no batch": (
        ["--trainer.overfit_batches=0.0002"],
        "trainer.overfit_batches 0.0002 of 1000 batches is none: give a number of batches",
    ),
    "a share of an epoch that ends inside a step": (
        ["--trainer.limit_train_batches=0.0025", "--trainer.accumulate_grad_batches=2"],
        "trainer.limit_train_batches 0.0025 ends inside a step",
    ),
    "no training": (["--trainer.limit_train_batches=0"], "trainer.limit_train_batches 0 trains nothing"),
    "no interval": (["--trainer.val_check_interval=0"], "trainer.val_check_interval is a number of steps or a share"),
    "double precision": (["--trainer.precision=64-true"], "trainer.precision 64-true is not what draws and losses"),
    "no run": (["--trainer.barebones=true"], "trainer.barebones leaves out the checkpoints and logs"),
    "an unknown score to stop by": (
        [*EARLY, "--trainer.callbacks.monitor=nope", "--trainer.check_val_every_n_epoch=null"],
        "Early stopping conditioned on metric `nope` which is not available",
    ),
    "a schedule of accumulation": (
        [
            "--trainer.callbacks+=lightning.pytorch.callbacks.GradientAccumulationScheduler",
            '--trainer.callbacks.scheduling={"0": 1, "1": 2}',
        ],
        "GradientAccumulationScheduler: the rows of a step are fixed",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused(case, tmp_path, capsys):
    options, message = REFUSED[case]
    assert message in error_line(capsys, *flags(tmp_path, *options))
