"""A small file in the official format of every downstream task; what must come of it is worked out by hand.

Each case has traps of its task: inactive or numeric questions, empty answers, two captions of one picture, words with
capitals, pictures that must be drawn or turned.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass
class Case:
    """`rows`: split -> (id, picture or pictures, text, answers or captions) of each row; `scores` follow when the model
    writes `texts` about the rows of the splits that are scored."""

    write: Callable[[Path], None]
    rows: dict[str, list[tuple[str, Any, str, list[str]]]]
    texts: list[str]
    scores: dict[str, float]
    left_out: str = ""
    trained: str = "train"
    meta: dict[str, Any] = field(default_factory=dict)  # of the first row of the first split


def picture(path: Path, size: tuple[int, int] = (20, 10), colour: Any = "grey") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def table(path: Path, *rows: dict[str, Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def ten(*answers: str) -> list[dict[str, str]]:
    return [{"answer": answer, "raw_answer": f"raw {answer}", "answer_confidence": "yes"} for answer in answers]


# -- captions ----------------------------------------------------------------------------------------------------------


def coco(src: Path) -> None:
    def image(number: int, split: str) -> dict[str, Any]:
        folder, name = ("val2014" if split == "val" else "train2014"), f"COCO_{number:012d}.jpg"
        picture(src / folder / name)
        sentences = [{"raw": "A cat on a mat."}, {"raw": "One cat."}]
        return {"filepath": folder, "filename": name, "cocoid": number, "split": split, "sentences": sentences}

    dump(
        src / "dataset_coco.json",
        {"images": [image(n, s) for n, s in enumerate(("train", "restval", "val", "test"), start=1)]},
    )


def textcaps(src: Path) -> None:
    for part in ("train", "val"):
        picture(src / "train_images" / f"{part}1.jpg")
        entry = {"image_id": f"{part}1", "image_name": f"{part}1"}
        data = [{**entry, "caption_str": text} for text in ("A STOP sign.", "The sign says Stop.")]
        dump(src / f"TextCaps_0.1_{part}.json", {"data": data})


def screen2words(src: Path) -> None:
    for number, part in enumerate(("train", "dev", "test")):
        picture(src / "combined" / f"{number}.jpg")
        dump(src / "split" / f"{part}_screens.txt", f"{number}\n" + ("7\n" if part == "test" else ""))
    rows = [{"screenId": n, "summary": f"screen {n} of {k}"} for n in range(3) for k in ("login", "sign in")]
    table(src / "screen_summaries.csv", *rows)


def widgetcap(src: Path) -> None:
    (src / "split").mkdir(parents=True)
    for number, part in enumerate(("train", "dev", "test")):
        picture(src / "combined" / f"{number}.jpg", (1440, 2560), "white")
        leaf = {"bounds": [0, 1280, 720, 2560]}
        dump(src / "combined" / f"{number}.json", {"activity": {"root": {"children": [{"bounds": [0] * 4}, leaf]}}})
        dump(src / "split" / f"{part}.txt", str(number))
    row = {"nodeId": "0.1", "captions": "go back|Return", "datasetId": "r"}
    rows = [{"screenId": n, **row} for n in range(3)]
    table(src / "widget_captions.csv", *rows, {"screenId": 2, **row, "nodeId": "0.0", "datasetId": "nr"})


# -- questions ---------------------------------------------------------------------------------------------------------


def okvqa(src: Path) -> None:
    for part in ("train", "val"):
        picture(src / f"{part}2014" / f"COCO_{part}2014_{5:012d}.jpg")
        asked = [{"question_id": n, "image_id": 5, "question": f"What {n}?"} for n in (51, 52)]
        notes = [{"question_id": 52, "answers": ten(*["dog"] * 10), "question_type": "two"}]
        notes += [{"question_id": 51, "answers": ten(*["cat"] * 2, *["Cats"] * 8), "question_type": "one"}]
        dump(src / f"OpenEnded_mscoco_{part}2014_questions.json", {"questions": asked})
        dump(src / f"mscoco_{part}2014_annotations.json", {"annotations": notes})


def aokvqa(src: Path) -> None:
    for part in ("train", "val", "test"):
        picture(src / f"{part}2017" / f"{9:012d}.jpg")
        entry = {"image_id": 9, "question": "What is it?", "choices": ["A cat", "dog", "cow", "pig"]}
        known = {
            "correct_choice_idx": 0,
            "direct_answers": ["cat"] * 3 + ["kitten"] * 7,
            "difficult_direct_answer": True,
        }
        entries = [{**entry, **(known if part != "test" else {}), "question_id": f"{part}{i}"} for i in range(2)]
        dump(src / f"aokvqa_v1p0_{part}.json", entries)


def gqa(src: Path) -> None:
    picture(src / "images" / "77.jpg")
    for part in ("train", "val", "testdev"):
        entry = {"imageId": "77", "question": "Is it?", "answer": "yes", "fullAnswer": "Yes, it is."}
        dump(src / f"{part}_balanced_questions.json", {f"{part}1": entry, f"{part}2": {**entry, "answer": "no"}})


def nlvr2(src: Path) -> None:
    for part, folder in (("train", "train/12"), ("dev", "dev"), ("test1", "test1")):
        for side in (0, 1):
            picture(src / "images" / folder / f"{part}-8-0-img{side}.png")
        entry = {"identifier": f"{part}-8-0-1", "sentence": "Both.", "label": "True", "directory": 12}
        dump(src / "nlvr2" / "data" / f"{part}.json", "\n".join(map(json.dumps, [entry])))


def ai2d(src: Path) -> None:
    for name in ("1.png", "2.png"):
        picture(src / "ai2d" / "images" / name, (60, 40), "black")
        label = {"rectangle": [[10, 10], [30, 30]], "replacementText": "B"}
        dump(src / "ai2d" / "annotations" / f"{name}.json", {"text": {"T0": label}})
        question = {"questionId": f"{name}-0", "answerTexts": ["Egg", "B"], "correctAnswer": 1}
        questions = {"What is it?": {**question, "abcLabel": name == "2.png"}}
        dump(src / "ai2d" / "questions" / f"{name}.json", {"imageName": name, "questions": questions})
    dump(src / "ai2d_test_ids.csv", "2\n")


def scienceqa(src: Path) -> None:
    problem = {"question": "Why?", "choices": ["x", "y"], "answer": 1, "hint": "", "image": "image.png"}
    problems = {}
    for number, part in ((1, "train"), (2, "val"), (3, "test")):
        picture(src / part / str(number) / "image.png")
        problems |= {
            str(number): {**problem, "split": part},
            str(number + 9): {**problem, "split": part, "image": None},
        }
    dump(src / "problems.json", problems)


def rsvqa(files: str, parts: tuple[str, ...], folder: str, suffix: str) -> Callable[[Path], None]:
    def write(src: Path) -> None:
        picture(src / folder / f"0.{suffix}")
        kinds = ("presence", "comp", "comp", "count", "presence")
        for part in parts:
            questions = [
                {"id": i, "img_id": 0, "type": kind, "question": f"{kind}?", "active": i != 4}
                for i, kind in enumerate(kinds)
            ]
            answers = [{"id": i, "question_id": i, "answer": "Yes", "active": True} for i in range(5)]
            dump(src / f"{files}_split_{part}_questions.json", {"questions": questions})
            dump(src / f"{files}_split_{part}_answers.json", {"answers": answers})

    return write


def chartqa(src: Path) -> None:
    for part in ("train", "val", "test"):
        picture(src / part / "png" / "c.png")
        for kind, label in (("human", "100"), ("augmented", "12%")):
            entry = {"imgname": "c.png", "query": f"How much ({kind})?", "label": label}
            dump(src / part / f"{part}_{kind}.json", [entry])


def vizwiz(src: Path) -> None:
    for part in ("train", "val", "test"):
        entries = []
        for i in range(2):
            picture(src / part / f"VizWiz_{part}_{i}.jpg")
            entries.append({"image": f"VizWiz_{part}_{i}.jpg", "question": "What?"})
            if part != "test":
                entries[-1]["answers"] = ten("soup", "soup", "  ", "can") if i == 0 else ten("")
        dump(src / "annotations" / f"{part}.json", entries)


def tallyqa(src: Path) -> None:
    picture(src / "VG_100K" / "1.jpg")
    entry = {"image": "VG_100K/1.jpg", "image_id": 1, "question": "How many?", "answer": 2, "data_source": "vg"}
    dump(src / "train.json", [{**entry, "question_id": 1}])
    dump(src / "test.json", [{**entry, "question_id": n, "issimple": n == 2} for n in (2, 3)])


def countbenchqa(src: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    def png(mode: str) -> bytes:
        buffer = io.BytesIO()
        Image.new(mode, (8, 8)).save(buffer, "PNG")
        return buffer.getvalue()

    images = [{"bytes": png("RGB")}, {"bytes": None}, {"bytes": png("L")}]
    src.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({"image": images, "number": [3, 4, 5]}), src / "countbench.parquet")
    dump(src / "countbench_paired_questions.json", [{"question": f"How many {i}?"} for i in range(3)])


def textvqa(src: Path) -> None:
    for part in ("train", "val", "test"):
        picture(src / ("test_images" if part == "test" else "train_images") / f"{part}0.jpg", (20, 10))
        known = {"answers": ["Stop"] * 6 + ["halt"] * 4} if part != "test" else {}
        data = [{"question_id": 1, "question": "What?", "image_id": f"{part}0", **known}]
        dump(src / f"TextVQA_0.5.1_{part}.json", {"data": data})
    rows = ({"ImageID": "val0", "Rotation": "90.0"}, {"ImageID": "x", "Rotation": ""})
    table(src / "image_ids_and_rotation.csv", *rows)


def docvqa(src: Path) -> None:
    for part in ("train", "val", "test"):
        picture(src / part / "documents" / "d.png")
        known = {"answers": ["June 5", "5 June"]} if part != "test" else {}
        entry = {"questionId": 7, "question": "When?", "image": "documents/d.png", **known}
        dump(src / (f"{part}_v1.0.json" if part == "test" else f"{part}_v1.0_withQT.json"), {"data": [entry]})


def infovqa(src: Path) -> None:
    picture(src / "images" / "1.jpeg")
    for part in ("train", "val", "test"):
        known = {"answers": ["Cats, Dogs"]} if part != "test" else {}
        entry = {"questionId": 8, "question": "Which?", "image_local_name": "1.jpeg", **known}
        dump(src / f"infographicsVQA_{part}_v1.0{'_withQT' * (part == 'val')}.json", {"data": [entry]})


def stvqa(src: Path) -> None:
    paths = [f"coco-text/{i}.jpg" for i in range(12)]
    for path in paths:
        picture(src / ("train2014" if path.endswith("0.jpg") else "train_images/coco-text") / path.rpartition("/")[2])
    picture(src / "test_task3_images" / "iiit" / "t.jpg")
    data = [{"question_id": i, "question": "What?", "file_path": p, "answers": ["EXIT"]} for i, p in enumerate(paths)]
    dump(src / "train_task_3.json", {"data": data})
    dump(src / "test_task_3.json", {"data": [{"question_id": 99, "question": "What?", "file_path": "iiit/t.jpg"}]})


NLVR2 = "images/images/{}-8-0-img{}.png"
PAIRS = {p: [NLVR2.format(p, side) for side in (0, 1)] for p in ("train/12/train", "dev/dev", "test1/test1")}
IT, OPTIONS = "answer en  What is it? choose from: A cat \t dog \t cow \t pig", "Options: (A) x, (B) y"
CONTEXT = f"Question: Why?\nContext: N/A\n{OPTIONS}\nAnswer:"
VIEW = "combined/{}.jpg"
CASES = {
    "coco": Case(
        coco,
        {
            "train": [
                (f"{part}-{n}-{i}", f"images/train2014/COCO_{n:012d}.jpg", "caption en", [text])
                for n, part in ((1, "train"), (2, "restval"))
                for i, text in enumerate(("A cat on a mat.", "One cat."))
            ],
            "val": [("3", f"images/val2014/COCO_{3:012d}.jpg", "caption en", ["A cat on a mat.", "One cat."])],
        },
        ["a cat on a mat"],
        {"coco/cider": 0.0, "coco/bleu1": 1.0},  # one image: no word is rare
    ),
    "textcaps": Case(
        textcaps,
        {
            "train": [
                ("train1-0", "images/train_images/train1.jpg", "caption en", ["a stop sign."]),
                ("train1-1", "images/train_images/train1.jpg", "caption en", ["the sign says stop."]),
            ],
            "val": [("val1", "images/train_images/val1.jpg", "caption en", ["A STOP sign.", "The sign says Stop."])],
        },
        ["a stop sign"],
        {"textcaps/bleu1": 1.0},
    ),
    "screen2words": Case(
        screen2words,
        {
            "train": [
                (f"{part}-{n}-{i}", f"images/{VIEW.format(n)}", "caption en", [f"screen {n} of {k}"])
                for n, part in enumerate(("train", "dev"))
                for i, k in enumerate(("login", "sign in"))
            ],
            "test": [("2", f"images/{VIEW.format(2)}", "caption en", ["screen 2 of login", "screen 2 of sign in"])],
        },
        ["screen 2 of login"],
        {"screen2words/bleu1": 1.0},
        left_out="no summary",
    ),
    "widgetcap": Case(
        widgetcap,
        {"test": [("2_0.1", "made/224/2_0.1.png", "caption en", ["go back", "Return"])]},
        ["go back"],
        {"widgetcap/bleu1": 1.0},
        left_out="no picture of RICO",
    ),
    "okvqa": Case(
        okvqa,
        {
            "val": [
                ("51", f"images/val2014/COCO_val2014_{5:012d}.jpg", "answer en What 51?", ["cat"] * 2 + ["Cats"] * 8),
                ("52", f"images/val2014/COCO_val2014_{5:012d}.jpg", "answer en What 52?", ["dog"] * 10),
            ]
        },
        ["cat", "Dog"],
        {"okvqa/accuracy": 1 / 3},  # two of three, and a capital
        meta={"question_id": 51, "question_type": "one"},
    ),
    "aokvqa_mc": Case(
        aokvqa,
        {
            "val": [(f"val{i}", f"images/val2017/{9:012d}.jpg", IT, ["A cat"]) for i in range(2)],
            "test": [(f"test{i}", f"images/test2017/{9:012d}.jpg", IT, ["unknown"]) for i in range(2)],
        },
        ["A cat", "a cat"],
        {"aokvqa_mc/accuracy": 0.5},
    ),
    "aokvqa_da": Case(
        aokvqa,
        {
            "val": [
                (f"val{i}", f"images/val2017/{9:012d}.jpg", "answer en What is it?", ["cat"] * 3 + ["kitten"] * 7)
                for i in range(2)
            ]
        },
        ["cat", "dog"],
        {"aokvqa_da/accuracy": 0.5},
        meta={"question_id": "val0", "difficult": True},
    ),
    "gqa": Case(
        gqa,
        {
            "testdev": [
                ("testdev1", "images/images/77.jpg", "answer en Is it?", ["yes"]),
                ("testdev2", "images/images/77.jpg", "answer en Is it?", ["no"]),
            ]
        },
        ["yes", "yes"],
        {"gqa/accuracy": 0.5},
        trained="trainval",
    ),
    "nlvr2": Case(
        nlvr2,
        {
            "train": [
                ("train-train-8-0-1-0", PAIRS["train/12/train"], "answer en Both.", ["True"]),
                ("dev-dev-8-0-1-0", PAIRS["dev/dev"], "answer en Both.", ["True"]),
            ],
            "test": [("test1-8-0-1", PAIRS["test1/test1"], "answer en Both.", ["True"])],
        },
        ["True"],
        {"nlvr2/accuracy": 1.0},
    ),
    "ai2d": Case(
        ai2d,
        {
            "train": [("1.png-0-0", "images/ai2d/images/1.png", "answer en  What is it? choose from: Egg \t B", ["B"])],
            "test": [("2.png-0", "made/letters/2.png", "answer en  What is it? choose from: Egg \t B", ["B"])],
        },
        ["b"],
        {"ai2d/accuracy": 0.0},
    ),
    "scienceqa": Case(
        scienceqa,
        {"test": [("3", "images/test/3/image.png", CONTEXT, ["The answer is B."])]},
        ["the answer is b. for sure"],
        {"scienceqa/accuracy": 1.0},
        left_out="no picture",
        trained="trainval",
    ),
    "rsvqa_lr": Case(
        rsvqa("LR", ("train", "val", "test"), "Images_LR", "tif"),
        {
            "test": [
                (str(i), "made/0.png", f"answer en {kind}?", ["yes"])
                for i, kind in enumerate(("presence", "comp", "comp"))
            ]
        },
        ["Yes", "yes", "no"],
        {"rsvqa_lr/accuracy": 2 / 3, "rsvqa_lr/mean_of_types": 0.75},
        left_out="a numeric question",
        trained="trainval",
        meta={"question_id": 0, "type": "presence"},
    ),
    "rsvqa_hr": Case(
        rsvqa("USGS", ("train", "val", "test", "test_phili"), "Data", "png"),
        {
            "test_phili": [
                (str(i), "images/Data/0.png", f"answer en {kind}?", ["yes"])
                for i, kind in enumerate(("presence", "comp", "comp"))
            ]
        },
        ["yes", "no", "no"],
        {"rsvqa_hr/mean_of_types": 0.5, "rsvqa_hr_phili/mean_of_types": 0.5},
        left_out="a numeric question",
        trained="trainval",
    ),
    "chartqa": Case(
        chartqa,
        {
            "test_human": [("test_human-0", "images/test/png/c.png", "How much (human)?", ["100"])],
            "test_augmented": [("test_augmented-0", "images/test/png/c.png", "How much (augmented)?", ["12%"])],
        },
        ["104"],
        {"chartqa_human/accuracy": 1.0, "chartqa_augmented/accuracy": 0.0},
        trained="trainval",
    ),
    "vizwiz": Case(
        vizwiz,
        {
            "val": [("VizWiz_val_0.jpg", "images/val/VizWiz_val_0.jpg", "answer en What?", ["soup", "soup", "can"])],
            "test": [
                (f"VizWiz_test_{i}.jpg", f"images/test/VizWiz_test_{i}.jpg", "answer en What?", ["unknown"])
                for i in (0, 1)
            ],
        },
        ["soup"],
        {"vizwiz/accuracy": 2 / 3},
        left_out="no answer",
    ),
    "tallyqa": Case(
        tallyqa,
        {
            "test_simple": [("2", "images/VG_100K/1.jpg", "answer en How many?", ["2"])],
            "test_complex": [("3", "images/VG_100K/1.jpg", "answer en How many?", ["2"])],
        },
        ["two"],
        {"tallyqa_simple/accuracy": 1.0, "tallyqa_complex/accuracy": 1.0},
    ),
    "countbenchqa": Case(
        countbenchqa,
        {"test": [("0", "made/0000.png", "answer en How many 0?", ["3"])]},
        ["three"],
        {"countbenchqa/accuracy": 1.0},
        left_out="not RGB",
        trained="test",
    ),
    "textvqa": Case(
        textvqa,
        {
            "train": [
                (f"1-{i}", "images/train_images/train0.jpg", "answer en What?", [answer])
                for i, answer in enumerate(["Stop"] * 6 + ["halt"] * 4)
            ],
            "val": [("1", "made/upright/val0.png", "answer en What?", ["Stop"] * 6 + ["halt"] * 4)],
        },
        ["the stop!"],
        {"textvqa/accuracy": 1.0},
    ),
    "docvqa": Case(
        docvqa,
        {
            "val": [("7", "images/val/documents/d.png", "When?", ["June 5", "5 June"])],
            "test": [("7", "images/test/documents/d.png", "When?", ["unknown"])],
        },
        ["june 6"],
        {"docvqa/accuracy": 5 / 6},
    ),
    "infovqa": Case(
        infovqa,
        {
            "train": [("8-0", "images/images/1.jpeg", "answer en Which?", ["cats, dogs"])],
            "val": [("8", "images/images/1.jpeg", "answer en Which?", ["cats, dogs", "dogs, cats"])],
        },
        ["Dogs, cats"],
        {"infovqa/accuracy": 1.0},
    ),
    "stvqa": Case(
        stvqa,
        {"test": [("99", "images/test_task3_images/iiit/t.jpg", "answer en What?", ["unknown"])]},
        ["exist"],
        {"stvqa/accuracy": 0.8},
    ),
}
