"""Counting: TallyQA, and CountBenchQA, on which a model trained on TallyQA is tried."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from PIL import Image

from datamodules.tasks.base import LeftOut, Made, Row, Task, answer_rows


class TallyQA(Task):
    """TallyQA: simple questions name a kind of thing, complex ones ask for more. Pictures of Visual Genome and COCO."""

    name = "tallyqa"
    splits = {"train": ("train",), "test_simple": ("simple",), "test_complex": ("complex",)}

    def entries(self, part: str) -> Sequence[Any]:
        entries = self.json("train.json" if part == "train" else "test.json")
        return [e for e in entries if part == "train" or e["issimple"] == (part == "simple")]

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        asked, answer = f"answer en {entry['question']}", str(entry["answer"])
        meta = {"source": entry.get("data_source", "")}
        yield from answer_rows(entry["question_id"], entry["image"], asked, [answer], training, **meta)


class CountBenchQA(Task):
    """CountBench's pictures (in a parquet file) with a question for each row of it; all of it is a test."""

    name = "countbenchqa"
    splits = {"test": ("test",)}

    def entries(self, part: str) -> Sequence[Any]:
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise ValueError("countbenchqa reads a parquet file with pyarrow: pip install 'unifluid[data]'") from error
        table = parquet.read_table(self.file("countbench.parquet"), columns=["image", "number"]).to_pylist()
        questions = self.json("countbench_paired_questions.json")
        if len(table) != len(questions):
            raise ValueError(
                f"{self.source}: {len(table)} pictures but {len(questions)} questions: not a pair of files"
            )
        return list(enumerate(zip(table, questions, strict=True)))

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        number, (picture, question) = entry
        data = (picture["image"] or {}).get("bytes")
        if not data:
            raise LeftOut("no picture")
        with Image.open(io.BytesIO(data)) as opened:
            if opened.mode != "RGB":
                raise LeftOut("not RGB")
        made = Made(f"{number:04d}", partial(_decode, data))
        asked = f"answer en {question['question']}"
        yield from answer_rows(number, made, asked, [str(picture["number"])], training)


def _decode(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")
