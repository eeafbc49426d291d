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


def test_overfitting_repeats_its_batches(tmp_path):
    options = ["--trainer.overfit_batches=4", "--trainer.accumulate_grad_batches=2"]
    assert main(flags(tmp_path, *options)) == 0
    assert len(Steps.ids) == 8 and Steps.ids[:4] == Steps.ids[4:] and len(set(Steps.ids)) == 4


REFUSED = {
    "a part of a step to overfit": (
        ["--trainer.overfit_batches=1", "--trainer.accumulate_grad_batches=2"],
        "trainer.overfit_batches 1 ends inside a step of accumulate_grad_batches 2 batches",
    ),
    "epochs of a step and a half": (
        ["--trainer.limit_train_batches=3", "--trainer.accumulate_grad_batches=2"],
        "trainer.limit_train_batches 3 ends inside a step",
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
