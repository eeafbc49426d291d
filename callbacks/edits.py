"""Edits, judged by the data set they come from."""

from __future__ import annotations

from typing import Any

import lightning as L

from callbacks.blocks import Outcome, grouped
from callbacks.evaluator import DEFAULT_SAMPLING, FirstItems
from callbacks.sheet import ACCENT, FAINT, Cell, Line
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.scores import Score
from unifluid.sequence import Example


class EditAccuracy(FirstItems):
    """Share of edited pictures that `dataset.score_edit` finds right.

    edits/right: what was asked for has been done
    edits/untouched: all the rest is as it was
    edits/accuracy: both; and edits/KIND for every `meta["kind"]`

    Args:
        dataset: source pictures and instructions (task edit), of a data set that can judge edits.
        n: edits, from the first; null for all.
        sampling: how images are drawn.
        prefix, seed, weights, show, every, at_end, …: see `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        n: int | None = 200,
        sampling: ImageSampling = DEFAULT_SAMPLING,
        prefix: str = "edits",
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, sampling, n, **kwargs)

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.dataset.task != "edit":
            raise ValueError(f"{self.prefix}: EditAccuracy needs a data set of task edit, got {self.dataset.task}")
        first = self.dataset[0]
        if self.dataset.score_edit(first, first.target) is None:
            raise ValueError(f"{self.prefix}: {type(self.dataset).__name__} cannot judge edits")

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        images = generate_images(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        outcomes = []
        for i, item, image in zip(indices, items, images, strict=True):
            right, untouched = self.dataset.score_edit(item, image)
            outcomes.append({"kind": item.meta.get("kind", "accuracy"), "right": right, "untouched": untouched})
            if i < self.show:
                outcomes[-1] |= {"images": [item.image, image.clone()], "instruction": item.condition}
        return outcomes

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        both = [outcome | {"both": outcome["right"] and outcome["untouched"]} for outcome in outcomes]
        groups = grouped(both, "kind", "both") | {"accuracy": [outcome["both"] for outcome in both]}
        groups |= {name: [outcome[name] for outcome in both] for name in ("right", "untouched")}
        return {name: Score.of(outcomes) for name, outcomes in groups.items()}

    def cells(self, outcomes: list[Outcome]) -> list[Cell]:
        cells = []
        for outcome in outcomes:
            faults = [name for name, fine in (("not done", "right"), ("touched", "untouched")) if not outcome[fine]]
            verdict = Line(" and ".join(faults), ACCENT) if faults else Line("right", FAINT)
            cells.append(Cell(outcome["images"], [Line(outcome["instruction"]), verdict]))
        return cells
