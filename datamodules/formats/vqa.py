"""Questions and answers as VQAv2, OK-VQA and others distribute them: two JSON files, and the pictures of COCO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from datamodules.formats.files import Annotations, read_json
from unifluid.sequence import Task


class VQA(Annotations):
    """A question about a picture, with ten people's answers: the answer most of them gave comes first.

    Training learns the first; an evaluation has all ten, repeated as they were given. `meta` has image_id,
    question_type and answer_type.

    Args:
        questions: v2_OpenEnded_mscoco_train2014_questions.json and the like.
        annotations: v2_mscoco_train2014_annotations.json and the like.
        images: the folder of pictures.
        file_name: what a picture is called there; subtype is the questions' own data_subtype, as train2014.
        max_skipped, strict: see `Skipping`.
    """

    task: Task = "answer"

    def __init__(
        self,
        questions: str,
        annotations: str,
        images: str,
        file_name: str = "COCO_{subtype}_{image_id:012d}.jpg",
        max_skipped: float = 0.01,
        strict: bool = False,
    ):
        super().__init__(questions, images, "answer", max_skipped, strict)
        asked, answered = read_json(questions), read_json(annotations)
        try:
            answers = {entry["question_id"]: entry for entry in answered["annotations"]}
            rows = list(_rows(asked, answers, file_name))
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise ValueError(
                f"{questions}, {annotations}: not questions and answers as of VQAv2 ({error!r})"
            ) from error
        self.keep(rows)


def _rows(asked: dict[str, Any], answers: dict[int, dict[str, Any]], file_name: str) -> Iterator[dict[str, Any]]:
    subtype = asked.get("data_subtype", "")
    for question in asked["questions"]:
        entry = answers.get(question["question_id"], {})
        yield {
            "id": str(question["question_id"]),
            "image": file_name.format(subtype=subtype, image_id=question["image_id"]),
            "question": question.get("question"),
            "answers": majority_first([a["answer"] for a in entry.get("answers", [])], entry),
            "meta": {
                "image_id": question["image_id"],
                **{name: entry[name] for name in ("question_type", "answer_type") if name in entry},
            },
        }


def majority_first(answers: list[str], entry: dict[str, Any]) -> list[str]:
    """All answers, equal ones together, the most frequent first; a tie is decided as the data set itself does."""
    counts, own = Counter(answers), entry.get("multiple_choice_answer")
    return sorted(answers, key=lambda a: (-counts[a], a != own, answers.index(a)))
