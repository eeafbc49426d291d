"""Answers in the form in which a test's server takes them, where its answers are known to nobody else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from unifluid.interfaces import Recorded


class Submission(Recorded, ABC):
    """What a server wants to be sent."""

    @abstractmethod
    def content(self, answers: Sequence[tuple[Any, str]]) -> Any:
        """(question id, answer) pairs -> the content of a JSON file."""


class AnswerList(Submission):
    """A list of objects, one a question: TextVQA and ST-VQA; with `question` questionId DocVQA and InfographicVQA, with
    image VizWiz."""

    def __init__(self, question: str = "question_id", answer: str = "answer"):
        self.question, self.answer = question, answer

    def content(self, answers: Sequence[tuple[Any, str]]) -> Any:
        return [{self.question: number, self.answer: text} for number, text in answers]


class AnswersById(Submission):
    """One object of objects by question: A-OKVQA, whose `field` is multiple_choice or direct_answer (merge the two)."""

    def __init__(self, field: str):
        self.field = field

    def content(self, answers: Sequence[tuple[Any, str]]) -> Any:
        return {str(number): {self.field: text} for number, text in answers}
