"""Pictures with text: TextVQA, VizWiz, DocVQA, InfoVQA, ST-VQA. Most test splits have answers on a server only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import permutations
from typing import Any

from PIL import Image

from datamodules.tasks.base import LeftOut, Made, Row, Task, answer_rows
from unifluid.randomness import derive

OFFICIAL = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}


class TextVQA(Task):
    """TextVQA 0.5.1 on Open Images. Pictures that Open Images lists as turned are turned back, where its file is there
    (image_ids_and_rotation.csv: ImageID, Rotation in degrees)."""

    name = "textvqa"
    splits = OFFICIAL

    def entries(self, part: str) -> Sequence[Any]:
        turned = "image_ids_and_rotation.csv"
        known = self.table(turned) if (self.source / turned).is_file() else []
        self._rotation = {line["ImageID"]: round(float(line["Rotation"] or 0)) % 360 for line in known}
        return self.listed(f"TextVQA_0.5.1_{part}.json", "data")

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        name = entry["image_id"]
        image: Any = f"{'test' if part == 'test' else 'train'}_images/{name}.jpg"
        if rotation := self._rotation.get(name, 0):
            image = Made(f"upright/{name}", partial(self._upright, image, rotation))
        asked = f"answer en {entry['question']}"
        yield from answer_rows(entry["question_id"], image, asked, entry.get("answers"), training)

    def _upright(self, image: str, rotation: int) -> Image.Image:
        with Image.open(self.file(image)) as picture:
            return picture.convert("RGB").rotate(rotation, expand=True)  # counter-clockwise, as Open Images counts


class VizWiz(Task):
    """VizWiz-VQA: pictures and questions by blind people, ten answers; empty ones are dropped."""

    name = "vizwiz"
    splits = OFFICIAL

    def entries(self, part: str) -> Sequence[Any]:
        return self.json(f"annotations/{part}.json")

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        given = entry.get("answers")
        answers = None if given is None else [a["answer"] for a in given if a["answer"].strip()]
        if answers == []:
            raise LeftOut("no answer")
        asked, image = f"answer en {entry['question']}", f"{part}/{entry['image']}"
        yield from answer_rows(entry["image"], image, asked, answers, training)


class DocVQA(Task):
    """DocVQA (single page): the bare question is the prompt."""

    name = "docvqa"
    splits = OFFICIAL

    def entries(self, part: str) -> Sequence[Any]:
        names = ("test_v1.0.json",) if part == "test" else (f"{part}_v1.0_withQT.json", f"{part}_v1.0.json")
        return self.listed(self.file(*names).name, "data")

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        image, answers = f"{part}/{entry['image']}", entry.get("answers")
        yield from answer_rows(entry["questionId"], image, entry["question"], answers, training)


class InfoVQA(Task):
    """InfographicVQA, in lower case. An answer that is a list is right in any order: references with ", " come in all
    permutations in evaluations."""

    name = "infovqa"
    splits = OFFICIAL

    def entries(self, part: str) -> Sequence[Any]:
        names = (f"infographicsVQA_{part}_v1.0.json", f"infographicsVQA_{part}_v1.0_withQT.json")
        return self.listed(self.file(*names).name, "data")

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        answers = entry.get("answers")
        if answers is not None:
            answers = [answer.lower() for answer in answers]
            answers = answers if training else list(dict.fromkeys(v for a in answers for v in in_any_order(a)))
        image, asked = f"images/{entry['image_local_name']}", f"answer en {entry['question']}"
        yield from answer_rows(entry["questionId"], image, asked, answers, training)


def in_any_order(answer: str, most: int = 6) -> list[str]:
    """All orders of a list of `most` items at most, the given one first; of a longer one it alone."""
    items = answer.split(", ")
    return [", ".join(order) for order in permutations(items)] if 1 < len(items) <= most else [answer]


class STVQA(Task):
    """Scene Text VQA, task 3, in lower case. It has no validation split: a tenth of the training pictures, chosen by a
    hash of their names, is one here. Its pictures of coco-text are COCO's own of train2014, where that folder is."""

    name = "stvqa"
    splits = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

    def entries(self, part: str) -> Sequence[Any]:
        if part == "test":
            return self.listed("test_task_3.json", "data")
        entries = self.listed("train_task_3.json", "data")
        return [e for e in entries if (derive(0, "stvqa", e["file_path"]) % 10 == 0) == (part == "val")]

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        path, given = entry["file_path"], entry.get("answers")
        image = f"{'test_task3' if part == 'test' else 'train'}_images/{path}"
        folder, _, name = path.rpartition("/")
        if folder == "coco-text" and (self.source / "train2014" / name).is_file():
            image = f"train2014/{name}"
        answers = None if given is None else [answer.lower() for answer in given]
        yield from answer_rows(entry["question_id"], image, f"answer en {entry['question']}", answers, training)
