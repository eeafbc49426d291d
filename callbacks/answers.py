"""Answers to questions, scored as the field scores the task they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from callbacks.blocks import Outcome, file_name, grouped
from callbacks.texts import TextEvaluator
from datamodules.base import ExampleDataset
from datamodules.formats.jsonl import write_json
from unifluid.evaluation.questions import AnswerMetric
from unifluid.evaluation.scores import Score
from unifluid.sequence import Example


class AnswerScore(TextEvaluator):
    """`qa/accuracy`, the mean of a metric over questions; with `types`, `qa/TYPE` and `qa/mean_of_types` as well.

    Answers are kept as results/PREFIX-answers.json, [{"question_id": …, "answer": …}]: the format in which VQA's and
    most other servers take them. Questions whose answers only a server knows (`meta["unanswered"]`) have no score.

    Args:
        dataset: questions (task answer), with all references as answers.
        metric: how right an answer is (`unifluid.evaluation.questions`).
        types: field of `meta` by which scores are given too, with their unweighted mean.
        server: the field names of the submission, where a server wants others.
        n: questions, from the first; null for all.
        sampling, prefix, seed, weights, show, every, at_end, …: see `TextEvaluator` and `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        metric: AnswerMetric,
        types: str | None = None,
        server: dict[str, str] | None = None,
        prefix: str = "qa",
        n: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, n, **kwargs)
        if dataset.task != "answer":
            raise ValueError(f"AnswerScore needs a data set of task answer, got {dataset.task}")
        self.metric, self.types = metric, types
        self.names = {"question_id": "question_id", "answer": "answer"} | (server or {})

    def about(self) -> dict[str, Any]:
        return {"metric": type(self.metric).__name__}

    def judge_text(self, item: Example, text: str) -> Outcome:
        unanswered = item.meta.get("unanswered", False)
        right = None if unanswered else self.metric(text, item.answers)
        kind = {} if self.types is None else {"type": str(item.meta[self.types])}
        return {"question_id": item.meta.get("question_id", item.id), "right": right, **kind}

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        known = [outcome for outcome in outcomes if outcome["right"] is not None]
        if not known:
            return {}
        scores = {"accuracy": Score.of_values(outcome["right"] for outcome in known)}
        if self.types is not None:
            by_type = {kind: Score.of_values(v) for kind, v in sorted(grouped(known, "type", "right").items())}
            scores |= by_type | {"mean_of_types": Score.mean(list(by_type.values()))}
        return scores

    def write(self, folder: Path, outcomes: list[Outcome]) -> None:
        number, answer = self.names["question_id"], self.names["answer"]
        results = [{number: outcome["question_id"], answer: outcome["text"]} for outcome in outcomes]
        write_json(folder / f"{file_name(self.prefix)}-answers.json", results)
