"""Diagrams, lectures and charts: AI2D, ScienceQA, ChartQA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from datamodules.tasks.base import LeftOut, Made, Row, Task, answer_rows
from unifluid.randomness import derive, permuted_index

SHUFFLES = 4  # orders of choices that ScienceQA's training sees of every question


class AI2D(Task):
    """AI2D: choices as text, or as letters that are then drawn in white boxes over the diagram's own words.

    ai2d_test_ids.csv lists the pictures of the test split; the others are for training.
    """

    name = "ai2d"
    splits = {"train": ("train",), "test": ("test",)}

    def entries(self, part: str) -> Sequence[Any]:
        test = {line.removesuffix(".png") for line in self.lines("ai2d_test_ids.csv")}
        found = []
        for path in sorted((self.source / "ai2d" / "questions").glob("*.json")):
            content = self.json(f"ai2d/questions/{path.name}")
            if (content["imageName"].removesuffix(".png") in test) == (part == "test"):
                found += [(content["imageName"], text, question) for text, question in content["questions"].items()]
        if not found:
            raise ValueError(f"{self.source}/ai2d/questions: holds no question of {part}")
        return found

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        image, text, question = entry
        if question["abcLabel"]:
            picture = Made(f"letters/{image.removesuffix('.png')}", partial(self._lettered, image))
        else:
            picture = f"ai2d/images/{image}"
        asked = f"answer en  {text} choose from: " + " \t ".join(question["answerTexts"])
        answer = question["answerTexts"][question["correctAnswer"]]
        yield from answer_rows(question["questionId"], picture, asked, [answer], training)

    def _lettered(self, image: str) -> Image.Image:
        labels = self.json(f"ai2d/annotations/{image}.json")["text"].values()
        with Image.open(self.file(f"ai2d/images/{image}")) as opened:
            picture = opened.convert("RGB")
        draw = ImageDraw.Draw(picture)
        for label in labels:
            (x0, y0), (x1, y1) = label["rectangle"]
            draw.rectangle((x0, y0, x1, y1), fill="white")
            font = ImageFont.load_default(max(8, min(y1 - y0, x1 - x0)))
            draw.text(((x0 + x1) / 2, (y0 + y1) / 2), label["replacementText"], fill="black", font=font, anchor="mm")
        return picture


class ScienceQA(Task):
    """The questions of ScienceQA that have a picture; the answer is a sentence with a capital letter.

    In training the choices are shuffled: every question makes `SHUFFLES` rows, each with another order of its own.
    Published figures: trained on trainval, reported on test, with the image encoder frozen.
    """

    name = "scienceqa"
    splits = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

    def entries(self, part: str) -> Sequence[Any]:
        return [(number, p) for number, p in self.json("problems.json").items() if p["split"] == part]

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        number, problem = entry
        if not problem["image"]:
            raise LeftOut("no picture")
        n = len(problem["choices"])
        for k in range(SHUFFLES if training else 1):
            seed = derive(0, "scienceqa", number, k)
            order = [permuted_index(seed, i, n) if training else i for i in range(n)]
            choices = ", ".join(f"({chr(65 + place)}) {problem['choices'][i]}" for place, i in enumerate(order))
            hint = problem["hint"] or "N/A"
            asked = f"Question: {problem['question']}\nContext: {hint}\nOptions: {choices}\nAnswer:"
            answer = f"The answer is {chr(65 + order.index(problem['answer']))}."
            name = f"{number}.{k}" if training else number
            yield from answer_rows(name, f"{part}/{number}/image.png", asked, [answer], training)


class ChartQA(Task):
    """ChartQA: questions by people and made ones, trained together; the bare question is the prompt."""

    name = "chartqa"
    splits = {
        "train": ("train_human", "train_augmented"),
        "val": ("val_human", "val_augmented"),
        "trainval": ("train_human", "train_augmented", "val_human", "val_augmented"),
        "test_human": ("test_human",),
        "test_augmented": ("test_augmented",),
    }

    def entries(self, part: str) -> Sequence[Any]:
        folder = part.split("_")[0]
        return list(enumerate(self.json(f"{folder}/{part}.json")))

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        number, question = entry
        image = f"{part.split('_')[0]}/png/{question['imgname']}"
        yield from answer_rows(f"{part}-{number}", image, question["query"], [question["label"]], training)
