"""Answers to questions, scored as the field scores the task they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L

from callbacks.blocks import Outcome
from callbacks.texts import TextEvaluator
from datamodules.base import ExampleDataset
from datamodules.formats.jsonl import write_json
from unifluid.evaluation.questions import AnswerMetric, answer_scores
from unifluid.evaluation.scores import Score
from unifluid.evaluation.submissions import AnswerList, Submission
from unifluid.sequence import Example


class AnswerScore(TextEvaluator):
    """`qa/accuracy`, the mean of a metric over questions; with `types`, `qa/TYPE` and `qa/mean_of_types` as well.

    Answers are kept as results/PREFIX-answers.json, [{"question_id": …, "answer": …}], VQA's format of results. Where
    only a server knows the answers (`meta["unanswered"]`) there is no score: `submission` writes what it takes.

    Args:
        dataset: questions (task answer), with all references as answers.
        metric: how right an answer is (`unifluid.evaluation.questions`).
        types: field of `meta` by which scores are given too, with their unweighted mean.
        submission: writes results/PREFIX-submission.json as a server wants it (`unifluid.evaluation.submissions`).
        n: questions, from the first; null for all.
        sampling, prefix, seed, weights, show, every, at_end, …: see `TextEvaluator` and `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        metric: AnswerMetric,
        types: str | None = None,
        submission: Submission | None = None,
        prefix: str = "qa",
        n: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, n, **kwargs)
        if dataset.task != "answer":
            raise ValueError(f"AnswerScore needs a data set of task answer, got {dataset.task}")
        self.metric, self.types, self.submission = metric, types, submission

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().prepare(trainer, module)
        if self.types is not None and self.types not in (known := self.item(0).meta):
            raise ValueError(
                f"AnswerScore.types: {self.types!r} is none of what is known of an example: {', '.join(known)}"
            )

    def about(self) -> dict[str, Any]:
        return {"metric": type(self.metric).__name__}

    def judge_text(self, item: Example, text: str) -> Outcome:
        unanswered = item.meta.get("unanswered", False)
        right = None if unanswered else self.metric(text, item.answers)
        kind = {} if self.types is None else {"type": str(item.meta[self.types])}
        return {"question_id": item.meta.get("question_id", item.id), "right": right, **kind}

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        known = [outcome for outcome in outcomes if outcome["right"] is not None]
        types = None if self.types is None else [outcome["type"] for outcome in known]
        return answer_scores([outcome["right"] for outcome in known], types)

    def write(self, folder: Path, name: str, outcomes: list[Outcome]) -> None:
        answers = [(outcome["question_id"], outcome["text"]) for outcome in outcomes]
        write_json(folder / f"{name}-answers.json", AnswerList().content(answers))
        if self.submission is not None:
            write_json(folder / f"{name}-submission.json", self.submission.content(answers))
