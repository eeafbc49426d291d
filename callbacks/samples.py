"""Pictures to look at: what the model draws, describes, answers and edits, always for the same examples."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from callbacks.ema import Weights, live_weights
from callbacks.evaluator import progress_bar, trained_precision
from callbacks.geneval import DEFAULT_SAMPLING
from callbacks.schedule import Scheduled, Stage
from callbacks.sheet import ACCENT, FAINT, Cell, Line, Section, publish_sheet
from callbacks.texts import GREEDY
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, TextSampling, generate_images, generate_text
from unifluid.decoding.prefix import Progress
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
    ):
        super().__init__(every, at_end)
        self.datasets, self.n, self.seed, self.weights = datasets, n, seed, weights
        self.sampling, self.text = sampling, text

    def run(self, trainer: L.Trainer, module: L.LightningModule, stage: Stage) -> None:
        with live_weights(trainer, module, self.weights):
            if trainer.is_global_zero:
                self.draw(trainer, module)
        trainer.strategy.barrier("samples")

    def draw(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        with trained_precision(trainer), progress_bar(trainer, "samples") as progress:
            sections = [self.section(module, dataset, progress) for dataset in self.datasets]
        publish_sheet(trainer, "samples", sections, Path(trainer.default_root_dir) / FILE, self.step)

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
