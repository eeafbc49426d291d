"""Questions that need reasoning about scenes: GQA, and NLVR2 about two pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from datamodules.tasks.base import Row, Task, answer_rows


class GQA(Task):
    """The balanced questions of GQA; published figures: trained on trainval, reported on testdev."""

    name = "gqa"
    splits = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "testdev": ("testdev",)}

    def entries(self, part: str) -> Sequence[Any]:
        return list(self.json(f"{part}_balanced_questions.json").items())

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        number, question = entry
        asked, image = f"answer en {question['question']}", f"images/{question['imageId']}.jpg"
        yield from answer_rows(number, image, asked, [question["answer"]], training)


class NLVR2(Task):
    """True or False of a sentence about two pictures, left and right; trained on train+dev, reported on test1."""

    name = "nlvr2"
    splits = {"train": ("train", "dev"), "val": ("dev",), "test": ("test1",)}

    def entries(self, part: str) -> Sequence[Any]:
        lines = self.lines(f"nlvr2/data/{part}.json")
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{self.source}/nlvr2/data/{part}.json: not JSON lines ({error})") from error

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        stem = entry["identifier"].rpartition("-")[0]
        folder = f"images/train/{entry['directory']}" if part == "train" else f"images/{part}"
        images = [f"{folder}/{stem}-img{side}.png" for side in (0, 1)]
        asked = f"answer en {entry['sentence']}"
        yield from answer_rows(entry["identifier"], images, asked, [entry["label"]], training)
