"""Captions and answers, judged right or wrong by the data set they come from."""

from __future__ import annotations

from typing import Any, ClassVar

from callbacks.blocks import Outcome, grouped
from callbacks.texts import TextEvaluator
from datamodules.base import ExampleDataset
from unifluid.evaluation.scores import Score
from unifluid.sequence import Example


class TextAccuracy(TextEvaluator):
    """Share of texts that `dataset.score_text` finds right: the total and, where examples have one, by `meta["kind"]`.

    Args:
        n: examples to judge, from the first; null for all.
        dataset, sampling, prefix, seed, weights, show, every, at_end, …: see `TextEvaluator` and `Evaluator`.
    """

    total: ClassVar[str]

    def __init__(self, dataset: ExampleDataset, prefix: str, n: int | None = 500, **kwargs: Any):
        super().__init__(dataset, prefix, n, **kwargs)

    def judge_text(self, item: Example, text: str) -> Outcome:
        return {"kind": item.meta.get("kind", self.total), "right": self.dataset.score_text(item, text)}

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
