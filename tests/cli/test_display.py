"""The terminal shows the run, not Lightning's epochs."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import ModelSummary, TQDMProgressBar
from toy import make_data, make_module, make_trainer

from callbacks.last import LastCheckpoint
from unifluid.cli.display import ModelTable, RunProgress, callbacks


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
