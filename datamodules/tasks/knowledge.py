"""Questions that need knowledge: OK-VQA, and A-OKVQA with and without choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datamodules.tasks.base import Row, Task, answer_rows


class OKVQA(Task):
    """OK-VQA on COCO 2014; `answer`, not `raw_answer`, of ten people. Trained on train, reported on val."""

    name = "okvqa"
    splits = {"train": ("train",), "val": ("val",)}

    def entries(self, part: str) -> Sequence[Any]:
        notes = self.listed(f"mscoco_{part}2014_annotations.json", "annotations")
        answers = {note["question_id"]: note for note in notes}
        asked = self.listed(f"OpenEnded_mscoco_{part}2014_questions.json", "questions")
        return [
            (question, answers[question["question_id"]]) for question in asked if question["question_id"] in answers
        ]

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        question, note = entry
        image = f"{part}2014/COCO_{part}2014_{question['image_id']:012d}.jpg"
        answers = [answer["answer"] for answer in note["answers"]]
        asked, meta = f"answer en {question['question']}", {"question_type": note.get("question_type", "")}
        yield from answer_rows(question["question_id"], image, asked, answers, training, **meta)


class AOKVQA(Task):
    """A-OKVQA 1.0 on COCO 2017; its test split has no answers. Published figures: trained on trainval."""

    splits = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

    def entries(self, part: str) -> Sequence[Any]:
        return self.json(f"aokvqa_v1p0_{part}.json")

    def image(self, entry: Any, part: str) -> str:
        return f"{part}2017/{entry['image_id']:012d}.jpg"


class AOKVQAChoices(AOKVQA):
    """Multiple choice: the text of the right choice, case kept."""

    name = "aokvqa_mc"

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        choices = " \t ".join(entry["choices"])
        asked = f"answer en  {entry['question']} choose from: {choices}"  # two spaces, as published
        right = entry.get("correct_choice_idx")
        answers = None if right is None else [entry["choices"][right]]
        yield from answer_rows(entry["question_id"], self.image(entry, part), asked, answers, training)


class AOKVQADirect(AOKVQA):
    """Direct answers: one of ten. The official score leaves `difficult` questions out, PaliGemma's does not."""

    name = "aokvqa_da"

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        asked, answers = f"answer en {entry['question']}", entry.get("direct_answers")
        meta = {"difficult": entry.get("difficult_direct_answer", False)}
        yield from answer_rows(entry["question_id"], self.image(entry, part), asked, answers, training, **meta)
