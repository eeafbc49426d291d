"""Every downstream task: its official files are converted, a model trains a step on them, and the score is right."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli.runs import TINY, error_line
from datamodules_official import CASES, dump, picture
from PIL import Image

from callbacks import texts
from datamodules import Folder
from datamodules.tasks import CONVERTERS, TASKS
from datamodules.tasks.reading import in_any_order
from unifluid.cli.main import main
from unifluid.evaluation.averages import CAPTIONS, QUESTIONS

RECIPES = Path(__file__).parents[3] / "experiments" / "transfer"


def convert(name, src, *more):
    return ["data", "convert", name, str(src), f"data/{name}", *more]


@pytest.mark.parametrize("name", TASKS)
def test_a_task_from_its_official_files_to_its_score(name, tmp_path, monkeypatch, capsys):
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    case.write(tmp_path / "src")
    assert main(convert(name, "src")) == 0
    assert case.left_out in capsys.readouterr().out
    for split, expected in case.rows.items():
        rows = [json.loads(line) for line in Path(f"data/{name}/{split}.jsonl").read_text().splitlines()]
        found = [(r["id"], r["image"], r.get("question", r.get("prompt")), _answers(r)) for r in rows]
        assert found == expected
        dataset = Folder(f"data/{name}", TASKS[name].kind, split, strict=True)
        assert len(dataset[0].images) == (2 if name == "nlvr2" else 1)
    first = json.loads(Path(f"data/{name}/{next(iter(case.rows))}.jsonl").read_text().splitlines()[0])
    assert case.meta.items() <= first["meta"].items()
    assert main(convert(name, "src")) == 0
    assert "is there already" in capsys.readouterr().out
    assert Folder(f"data/{name}", TASKS[name].kind, case.trained)[0].images

    def generate_text(model, formatter, examples, sampling, seed, indices, progress):
        return [case.texts[i % len(case.texts)] for i in indices]

    monkeypatch.setattr(texts, "generate_text", generate_text)
    quiet = ["--trainer.enable_model_summary=false", "--trainer.default_root_dir=run", "--trainer.max_steps=1"]
    small = ["--trainer.val_check_interval=null", "--trainer.limit_val_batches=0", "--trainer.logger=false"]
    rows = [f"--data.init_args.streams.{TASKS[name].kind}.rows=2"]
    recipe = ["--config", str(TINY), "--config", str(RECIPES / f"{name}.yaml"), "--allow-module", "tiny"]
    assert main(["fit", *recipe, *quiet, *small, *rows]) == 0
    scores = json.loads(Path("run/scores.json").read_text())
    assert {key: scores[key] for key in case.scores} == pytest.approx(case.scores)


def _answers(row):
    return row["answers"] if "answers" in row else row["meta"].get("captions", [row["caption"]])


def test_every_task_has_a_case_a_recipe_and_a_place_in_the_averages():
    assert CASES.keys() == TASKS.keys() and len(CONVERTERS) == len(TASKS)
    assert {path.stem for path in RECIPES.glob("*.yaml")} == TASKS.keys()
    prefixes = []
    for path in RECIPES.glob("*.yaml"):
        callbacks = yaml.safe_load(path.read_text())["trainer"]["callbacks"]
        arguments = [c["init_args"] for c in callbacks if "init_args" in c]
        prefixes += [a["prefix"] + ("/mean_of_types" if "types" in a else "") for a in arguments]
    expected = [key.removesuffix("/cider").removesuffix("/accuracy") for key in (*CAPTIONS, *QUESTIONS)]
    assert sorted(prefixes) == sorted(expected)
    readme = (RECIPES / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in TASKS)


# -- pictures that are made --------------------------------------------------------------------------------------------


def made(name, tmp_path, *more):
    CASES[name].write(tmp_path / "src")
    assert main(["data", "convert", name, str(tmp_path / "src"), str(tmp_path / "out"), *more]) == 0


def test_a_widgets_box_is_drawn_after_the_resize(tmp_path):
    made("widgetcap", tmp_path, "--size", "64", "--split", "test")
    pixels = np.array(Image.open(tmp_path / "out" / "made" / "64" / "2_0.1.png"))
    red = (pixels == (255, 0, 0)).all(-1)
    ys, xs = red.nonzero()
    assert pixels.shape == (64, 64, 3) and (xs.min(), ys.min(), xs.max(), ys.max()) == (0, 32, 32, 63)
    assert red[32, :33].all() and not red[40, 5:30].any()  # one pixel wide


def test_letters_stand_in_white_boxes(tmp_path):
    made("ai2d", tmp_path)
    pixels = np.array(Image.open(tmp_path / "out" / "made" / "letters" / "2.png"))
    assert (pixels[10, 10] == 255).all() and (pixels[5, 5] == 0).all()
    assert 0 < (pixels[11:30, 11:30] < 128).mean() < 0.5


def test_turned_pictures_are_upright(tmp_path):
    made("textvqa", tmp_path)
    assert Image.open(tmp_path / "out" / "made" / "upright" / "val0.png").size == (10, 20)


def test_choices_are_shuffled_in_training_alone(tmp_path):
    made("scienceqa", tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and len({row["question"] for row in rows}) == 2
    for row in rows:
        assert row["answers"] == [f"The answer is {'A' if '(A) y' in row['question'] else 'B'}."]


def test_validation_pictures_of_stvqa_are_none_of_training(tmp_path):
    made("stvqa", tmp_path)
    rows = {s: (tmp_path / "out" / f"{s}.jsonl").read_text().splitlines() for s in ("train", "val", "trainval")}
    assert len(rows["train"]) + len(rows["val"]) == len(rows["trainval"]) == 12 and rows["val"]
    assert any("images/train2014/" in row for row in rows["trainval"])


def test_lists_are_right_in_any_order():
    assert in_any_order("a") == ["a"] and len(in_any_order("a, b, c")) == 6
    assert in_any_order("a, b, c, d, e, f, g") == ["a, b, c, d, e, f, g"]


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_mistakes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no task 'okvqua'; did you mean okvqa?" in error_line(capsys, *convert("okvqua", "src"))
    assert "src: no such folder of official files" in error_line(capsys, *convert("okvqa", "src"))
    Path("src").mkdir()
    line = error_line(capsys, *convert("okvqa", "src"))
    assert "mscoco_val2014_annotations.json: missing; okvqa needs it" in line
    assert "okvqa has no split tset, it has train, val" in error_line(
        capsys, *convert("okvqa", "src", "--split", "tset")
    )
    CASES["docvqa"].write(Path("src"))
    dump(Path("src/val_v1.0_withQT.json"), {"data": [{"questionId": 1}]})
    line = error_line(capsys, *convert("docvqa", "src", "--split", "val"))
    assert "not docvqa val as it is distributed: KeyError('image') in the entry {'questionId': 1}" in line
    dump(Path("src/val_v1.0_withQT.json"), "[")
    assert "val_v1.0_withQT.json: not a JSON file" in error_line(capsys, *convert("docvqa", "src", "--split", "val"))
    entry = {"questionId": 7, "question": "When?", "image": "documents/d.png", "answers": ["a"]}
    dump(Path("src/val_v1.0_withQT.json"), {"data": [entry, entry]})
    assert "docvqa val: the id 7 comes twice" in error_line(capsys, *convert("docvqa", "src", "--split", "val"))
    dump(Path("src/val_v1.0_withQT.json"), {"data": [entry, {**entry, "questionId": 8, "image": "gone.png"}]})
    line = error_line(capsys, *convert("docvqa", "src", "--split", "val"))
    assert "1 pictures of docvqa val are missing, first src/val/gone.png" in line and "--allow-missing" in line
    assert not Path("data/docvqa/val.jsonl").exists() and not list(Path("data/docvqa").glob("*.partial"))
    assert main(convert("docvqa", "src", "--split", "val", "--allow-missing", "--copy")) == 0
    assert "1 left out: missing picture" in capsys.readouterr().out
    assert not Path("data/docvqa/images/val/documents/d.png").is_symlink()
    dump(Path("src/val_v1.0_withQT.json"), {"data": [{**entry, "image": "../../x.png"}]})
    Path("data/docvqa/val.jsonl").unlink()
    assert "without '..'" in error_line(capsys, *convert("docvqa", "src", "--split", "val"))


def test_a_picture_that_cannot_be_made_is_that_rows_matter(tmp_path, capsys):
    """Missing files below a drawn picture stop the split, as those of a linked one; they do not leave it out."""
    CASES["rsvqa_lr"].write(tmp_path / "src")
    (tmp_path / "src" / "Images_LR" / "0.tif").unlink()
    args = ["data", "convert", "rsvqa_lr", str(tmp_path / "src"), str(tmp_path / "out")]
    line = error_line(capsys, *args)
    assert "3 pictures of rsvqa_lr train are missing" in line and "Images_LR/0.tif" in line
    questions = json.loads((tmp_path / "src" / "LR_split_test_questions.json").read_text())
    picture(tmp_path / "src" / "Images_LR" / "1.tif")
    questions["questions"].append({"id": 9, "img_id": 1, "type": "comp", "question": "q?", "active": True})
    answers = [{"id": i, "question_id": i, "answer": "No", "active": True} for i in (0, 1, 2, 9)]
    dump(tmp_path / "src" / "LR_split_test_questions.json", questions)
    dump(tmp_path / "src" / "LR_split_test_answers.json", {"answers": answers})
    assert main([*args, "--split", "test", "--allow-missing"]) == 0
    assert "test: 1 rows" in (out := capsys.readouterr().out) and "3 left out: missing picture" in out


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("ai2d", "ai2d/annotations/2.png.json", None, "1 pictures of ai2d test are missing"),
        ("ai2d", "ai2d/annotations/2.png.json", {"text": {"T": {}}}, "cannot make the picture letters/2: KeyError"),
        ("ai2d", "ai2d/questions/2.png.json", "{", "2.png.json: not a JSON file"),
        ("rsvqa_lr", "Images_LR/0.tif", "no picture", "cannot make the picture 0: UnidentifiedImageError"),
        ("scienceqa", "problems.json", [1], "not scienceqa train as it is distributed: AttributeError"),
        ("stvqa", "train_task_3.json", {"data": [{}]}, "not stvqa train as it is distributed: KeyError('file_path')"),
        ("tallyqa", "test.json", [{}], "not tallyqa simple as it is distributed: KeyError('issimple')"),
    ],
)
def test_files_of_another_kind_stop_in_one_line(name, file, content, message, tmp_path, capsys):
    CASES[name].write(tmp_path / "src")
    (tmp_path / "src" / file).unlink()
    if content is not None:
        dump(tmp_path / "src" / file, content)
    assert message in error_line(capsys, "data", "convert", name, str(tmp_path / "src"), str(tmp_path / "out"))


def test_countbenchqa_says_what_to_install(tmp_path, capsys, monkeypatch):
    CASES["countbenchqa"].write(tmp_path / "src")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    line = error_line(capsys, "data", "convert", "countbenchqa", str(tmp_path / "src"), str(tmp_path / "out"))
    assert "pip install 'unifluid[data]'" in line


def test_splits_without_files_are_left_out(tmp_path, capsys):
    CASES["textcaps"].write(tmp_path / "src")
    (tmp_path / "src" / "TextCaps_0.1_val.json").unlink()
    picture(tmp_path / "src" / "unused.jpg")
    assert main(["data", "convert", "textcaps", str(tmp_path / "src"), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "train: 2 rows" in out and "val: left out" in out
