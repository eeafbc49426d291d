"""What a run shows in the terminal: its model in a table, and one bar for all of its steps."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelSummary, ProgressBar, RichModelSummary, RichProgressBar
from lightning.pytorch.utilities.model_summary import get_human_readable_count
from rich import get_console
from rich.table import Table

from unifluid.cli.flags import callbacks_of


class RunProgress(RichProgressBar):
    """Counts the run's optimizer steps, from where it goes on, and the time left until the last of them."""

    @property
    def total_train_batches(self) -> float:
        return total_steps(self.trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.train_progress_bar_id is None:  # an epoch is only where Lightning starts to count anew
            super().on_train_epoch_start(trainer, pl_module)
            self._update(self.train_progress_bar_id, trainer.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{'Training':{len(self.validation_description)}}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Without the version of a logger, which says nothing of the run; with examples a second, over all ranks."""
        shown = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        rows = getattr(trainer.datamodule, "rows_per_step", None)
        if rows is not None and self.train_progress_bar_id is not None and (speed := self.train_progress_bar.speed):
            shown["rows/s"] = f"{rows * speed:.0f}"
        return shown


class ModelTable(RichModelSummary):
    """The parts of the model and their parameters."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        *_: Any,
        **__: Any,
    ) -> None:
        columns = dict(summary_data)
        table = Table()
        for name in ("Name", "Type"):
            table.add_column(name.lower())
        table.add_column("parameters", justify="right")
        for row in zip(*(columns[name] for name in ("Name", "Type", "Params")), strict=True):
            table.add_row(*row)
        total, trained = (get_human_readable_count(int(n)).strip() for n in (total_parameters, trainable_parameters))
        get_console().print(table, f"{total} parameters, {trained} of them trained, {model_size:.0f} MB")


def total_steps(trainer: L.Trainer) -> float:
    """Optimizer steps of the whole run; infinite where nothing ends it."""
    if trainer.max_steps > 0:
        return trainer.max_steps
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
    return epochs * math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def callbacks(trainer: dict[str, Any]) -> list[L.Callback]:
    """Both, unless the settings turn them off or name others."""
    named, shown = callbacks_of(trainer), []
    for flag, kind, ours in (
        ("enable_progress_bar", ProgressBar, RunProgress),
        ("enable_model_summary", ModelSummary, ModelTable),
    ):
        if trainer[flag] is not False and not any(isinstance(callback, kind) for callback in named):
            shown.append(ours())
    return shown
