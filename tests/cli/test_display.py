"""The terminal shows the run, not Lightning's epochs."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import lightning as L
import pytest
from cli.runs import fit_arguments
from lightning.pytorch.callbacks import ModelSummary, TQDMProgressBar
from toy import make_data, make_module, make_trainer

from callbacks.last import LastCheckpoint
from unifluid.cli.display import ModelTable, RunProgress, callbacks
from unifluid.cli.main import main
from unifluid.cli.opening import duration


class Watcher(L.Callback):
    """What the bar says after each step."""

    def __init__(self, bar):
        self.bar, self.seen = bar, []

    def on_train_batch_end(self, trainer, *_):
        task = self.bar.train_progress_bar
        self.seen.append((task.completed, task.total, task.description.strip()))


def steps_shown(tmp_path, steps):
    bar = RunProgress()
    watcher, path = Watcher(bar), tmp_path / "last.ckpt"
    trainer = make_trainer(tmp_path, bar, LastCheckpoint(), watcher, steps=steps)
    trainer.fit(make_module(), make_data(steps_per_epoch=2), ckpt_path=path if path.exists() else None)
    return watcher.seen


def test_the_bar_counts_the_whole_run(tmp_path):
    assert steps_shown(tmp_path, 5) == [(n, 5, "Training") for n in range(1, 6)]
    assert steps_shown(tmp_path, 7) == [(n, 7, "Training") for n in (6, 7)]


def test_the_bar_shows_rows_a_second(tmp_path):
    bar = RunProgress()
    trainer = make_trainer(tmp_path, bar, steps=4, num_sanity_val_steps=1, limit_val_batches=1)
    trainer.fit(make_module(), make_data())
    speed = bar.train_progress_bar.speed
    assert bar.get_metrics(trainer, trainer.model)["rows/s"] == f"{8 * speed:.0f}"  # two rows of each task
    assert "rows/s" in bar._metric_component._metrics


def test_the_table_names_parts_and_parameters(tmp_path, capsys):
    trainer = make_trainer(tmp_path, ModelTable(), steps=1)
    trainer.fit(make_module(), make_data())
    shown = capsys.readouterr().out
    assert "UniFluidModel" in shown and "of them trained" in shown and "FLOPs" not in shown


def test_what_the_user_names_or_turns_off_is_left_alone():
    def kinds(**settings):
        given = {"callbacks": None, "enable_progress_bar": None, "enable_model_summary": None} | settings
        return [type(callback) for callback in callbacks(given)]

    assert kinds() == [RunProgress, ModelTable]
    assert kinds(callbacks=TQDMProgressBar()) == [ModelTable]
    assert kinds(callbacks=[ModelSummary()], enable_progress_bar=False) == []


def test_a_run_opens_with_what_it_will_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unifluid.cli.opening.time", SimpleNamespace(monotonic=itertools.count(0, 60).__next__))
    flags = ["--trainer.enable_progress_bar=true", "--trainer.limit_val_batches=0", "--trainer.max_steps=1230"]
    stop = ["--trainer.callbacks+=cli.runs.Interrupt", "--trainer.callbacks.step=31", "--allow-module", "cli"]
    assert main(fit_arguments(tmp_path, *flags, *stop)) == 130
    shown = capsys.readouterr().out
    assert "training 1,230 steps of 4 rows, on CPU with " in shown
    assert f"curves: tensorboard --logdir {tmp_path}" in shown and "samples.png" not in shown
    assert "1,200 more steps: about 48 minutes on this machine" in shown  # a minute for 25 of them
    assert main(fit_arguments(tmp_path, *flags[1:], "--trainer.max_steps=32")) == 0
    assert "training" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "seconds, said", [(20, "20 seconds"), (130, "2 minutes"), (5400, "90 minutes"), (9e4, "25 hours")]
)
def test_durations_are_as_exact_as_they_can_be(seconds, said):
    assert duration(seconds) == said
