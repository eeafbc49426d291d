"""Pictures to look at: what the model draws, describes, answers and edits, always for the same examples."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
from rich import get_console

from callbacks.ema import Weights, live_weights
from callbacks.evaluator import DEFAULT_SAMPLING, progress_bar, trained_precision
from callbacks.schedule import Scheduled, Stage
from callbacks.sheet import ACCENT, FAINT, Cell, Line, Section, publish_sheet
from callbacks.texts import GREEDY
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, TextSampling, generate_images, generate_text
from unifluid.decoding.prefix import Progress
from unifluid.decoding.sampling import check_sampling
from unifluid.sequence import TEXT_TASKS, Task

FILE = "samples.png"
TITLES: dict[Task, str] = {
    "generate": "Drawn from a sentence",
    "edit": "Edited as told",
    "caption": "Described",
    "answer": "Asked about",
}


class SampleGrid(Scheduled):
    """Writes samples.png into the run's folder, and the same to TensorBoard with the words as a table.

    A section for each data set: prompts under what was drawn; captions and answers under what was looked at, followed
    by the data set's own words where it does not find the model's right; edits as source → result.

    Args:
        datasets: one for each section, of any task.
        n: examples of each, from the first.
        sampling, text: how images and text are drawn.
        seed: of what is drawn.
        weights: which weights draw; without an EMA callback there are only raw ones.
        every, at_end: when, see `Scheduled`.
        minutes: also once after each of these times since training began, over all resumed parts and without the time
            that drawing took: [1, 5] for a first look.
    """

    def __init__(
        self,
        datasets: list[ExampleDataset],
        n: int = 8,
        sampling: ImageSampling = DEFAULT_SAMPLING,
        text: TextSampling = GREEDY,
        seed: int = 0,
        weights: Weights = "ema",
        every: int | None = None,
        at_end: bool = True,
        minutes: list[float] | None = None,
    ):
        super().__init__(every, at_end)
        if min(minutes or [1]) <= 0:
            raise ValueError(f"SampleGrid.minutes must be above 0, or null for none, got {minutes}")
        self.waiting = sorted(minutes or [])
        self.trained = 0.0  # seconds
        self.datasets, self.n, self.seed, self.weights = datasets, n, seed, weights
        self.sampling, self.text = sampling, text

    # -- by the clock -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, float]:
        return {"trained": self.trained}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.trained = state_dict["trained"]
        self.waiting = [minutes for minutes in self.waiting if 60 * minutes > self.trained]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = time.monotonic() - self.seconds
        super().on_train_start(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        before, now = self.step, time.monotonic() - self.seconds
        self.trained, self._mark = self.trained + now - self._mark, now
        super().on_train_batch_end(trainer, pl_module, *args)
        if self.step != before and self.waiting and self._is_time(trainer):
            del self.waiting[0]
            if self._last != self.step:
                self._timed_run(trainer, pl_module, "fit")

    def _is_time(self, trainer: L.Trainer) -> bool:
        """Whether it is by any rank's clock: all must draw after the same step."""
        due = self.trained >= 60 * self.waiting[0]
        return trainer.strategy.reduce_boolean_decision(due, all=False) if trainer.world_size > 1 else due

    def check(self, module: L.LightningModule) -> None:
        tasks = {dataset.task for dataset in self.datasets}.difference(TEXT_TASKS)
        if tasks:
            check_sampling(self.sampling, module.model, module.formatter, "callbacks.SampleGrid.sampling", tasks)

    # -- drawing ----------------------------------------------------------------------------------------------------

    def run(self, trainer: L.Trainer, module: L.LightningModule, stage: Stage) -> None:
        with live_weights(trainer, module, self.weights):
            if trainer.is_global_zero:
                self.draw(trainer, module)
        trainer.strategy.barrier("samples")

    def draw(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with trained_precision(trainer), progress_bar(trainer, "samples") as progress:
            sections = [self.section(module, dataset, progress) for dataset in self.datasets]
        path = Path(trainer.default_root_dir) / FILE
        publish_sheet(trainer, "samples", sections, path, self.step)
        get_console().print(f"{FILE}: {path} after {self.step:,} steps", soft_wrap=True, highlight=False, markup=False)

    def section(self, module: L.LightningModule, dataset: ExampleDataset, progress: Progress) -> Section:
        """The model's results on the first examples of one data set."""
        examples = [dataset[i] for i in range(min(self.n, len(dataset)))]
        title, model, formatter = TITLES[dataset.task], module.model, module.formatter
        if dataset.task not in TEXT_TASKS:
            images = generate_images(model, formatter, examples, self.sampling, self.seed, progress=progress)
            drawn = zip(examples, images, strict=True)
            return Section(title, [Cell([*e.images, image], [Line(e.condition)]) for e, image in drawn])
        cells = []
        texts = generate_text(model, formatter, examples, self.text, self.seed, progress=progress)
        for example, text in zip(examples, texts, strict=True):
            lines = [Line(example.question, FAINT)] if example.question else []
            lines.append(Line(text or "(nothing)"))
            if not dataset.score_text(example, text):
                lines.append(Line(f"data: {example.response}", ACCENT))
            cells.append(Cell(list(example.images), lines))
        return Section(title, cells)
