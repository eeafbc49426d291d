"""Remote sensing: RSVQA at low and at high resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

from PIL import Image

from datamodules.tasks.base import LeftOut, Made, Row, Task, answer_rows

NUMERIC = ("count", "area")  # questions whose answer is a number are left out, as published


class RSVQA(Task):
    """Questions and answers in two files, joined by question; only those that are active, and not numeric.

    The score is the unweighted mean over `meta["type"]`.
    """

    files: ClassVar[str]

    def entries(self, part: str) -> Sequence[Any]:
        answers = self.listed(f"{self.files}_split_{part}_answers.json", "answers")
        by_question = {a["question_id"]: a for a in answers if a.get("active")}
        asked = self.listed(f"{self.files}_split_{part}_questions.json", "questions")
        return [(question, by_question.get(question["id"])) for question in asked if question.get("active")]

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        question, answer = entry
        if question["type"] in NUMERIC:
            raise LeftOut("a numeric question")
        if answer is None:
            raise LeftOut("no answer")
        asked = f"answer en {question['question']}"
        image = self.picture(question["img_id"])
        yield from answer_rows(
            question["id"], image, asked, [answer["answer"].lower()], training, type=question["type"]
        )

    def picture(self, number: Any) -> Any:
        raise NotImplementedError


class RSVQALow(RSVQA):
    """RSVQA-LR: Sentinel-2, 256 px, TIFF (made into PNG here)."""

    name, files = "rsvqa_lr", "LR"
    splits = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

    def picture(self, number: Any) -> Any:
        return Made(f"{number}", partial(self._read, number))

    def _read(self, number: Any) -> Image.Image:
        with Image.open(self.file(f"Images_LR/{number}.tif")) as picture:
            return picture.convert("RGB")


class RSVQAHigh(RSVQA):
    """RSVQA-HR: USGS, 512 px; test is in regions seen in training, test_phili in Philadelphia."""

    name, files = "rsvqa_hr", "USGS"
    splits = {
        "train": ("train",),
        "val": ("val",),
        "trainval": ("train", "val"),
        "test": ("test",),
        "test_phili": ("test_phili",),
    }

    def picture(self, number: Any) -> Any:
        return f"Data/{number}.png"
