"""Captions and answers, judged by the data set they come from."""

from __future__ import annotations

from typing import Any, ClassVar

import lightning as L

from callbacks.blocks import Outcome, grouped
from callbacks.evaluator import FirstItems
from datamodules.base import ExampleDataset
from unifluid.decoding import TextSampling, generate_text
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.scores import Score
from unifluid.sequence import Example

GREEDY = TextSampling()


class TextAccuracy(FirstItems):
    """Share of texts that `dataset.score_text` finds right: the total and, where examples have one, by `meta["kind"]`.

    Args:
        n: examples to judge, from the first.
        sampling: how text is written; greedy by default.
    """

    total: ClassVar[str]

    def __init__(
        self, dataset: ExampleDataset, prefix: str, n: int | None = 500, sampling: TextSampling = GREEDY, **kwargs: Any
    ):
        super().__init__(dataset, prefix, sampling, n, **kwargs)

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        texts = generate_text(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        return [
            {"kind": item.meta.get("kind", self.total), "right": self.dataset.score_text(item, text)}
            for item, text in zip(items, texts, strict=True)
        ]

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        groups = grouped(outcomes, "kind", "right") | {self.total: [outcome["right"] for outcome in outcomes]}
        return {name: Score.of(right) for name, right in groups.items()}


class CaptionAccuracy(TextAccuracy):
    """`captions/exact`: share of captions that say of a picture what its data set says of it."""

    total = "exact"

    def __init__(self, dataset: ExampleDataset, prefix: str = "captions", **kwargs: Any):
        super().__init__(dataset, prefix, **kwargs)


class QuestionAccuracy(TextAccuracy):
    """`qa/accuracy`: share of right answers, and `qa/KIND` for every kind of question."""

    total = "accuracy"

    def __init__(self, dataset: ExampleDataset, prefix: str = "qa", **kwargs: Any):
        super().__init__(dataset, prefix, **kwargs)
