"""`score captions`, `score answers`, `score average`: files of results, whoever wrote them; nothing is skipped."""

import json
import shutil

import pytest
from cli.runs import error_line

from unifluid.cli.main import main
from unifluid.evaluation.averages import CAPTIONS, QUESTIONS
from unifluid.evaluation.captions import caption_scores
from unifluid.evaluation.ptb import JavaPTB, PythonPTB

REAL = {1: ["a man on a horse", "a rider"], 2: ["two cats", "cats on a bed"]}
RESULTS = [{"image_id": 1, "caption": "a man on a horse"}, {"image_id": 2, "caption": "a dog"}]
EXACT = "--metric=unifluid.evaluation.questions.ExactMatch"


@pytest.fixture
def files(tmp_path):
    annotations = [{"image_id": i, "caption": text} for i, texts in REAL.items() for text in texts]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in REAL]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    row = {"task": "answer", "image": "a.png", "question": "?", "answers": ["yes"]}
    types = enumerate(("comp", "comp", "presence"))
    rows = [{**row, "id": f"r{i}", "meta": {"question_id": i, "type": kind}} for i, kind in types]
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answers = [{"question_id": i, "answer": text} for i, text in enumerate(("yes", "no", "yes"))]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    return tmp_path


def captions(files, *more):
    return [
        "score",
        "captions",
        "--references",
        str(files / "coco.json"),
        "--results",
        str(files / "results.json"),
        *more,
    ]


def answers(files, *more):
    return [
        "score",
        "answers",
        "--references",
        str(files / "val.jsonl"),
        "--results",
        str(files / "answers.json"),
        *more,
    ]


@pytest.mark.parametrize("tokenizer", ["python", "java"])
def test_captions(files, capsys, tokenizer):
    if tokenizer == "java" and shutil.which("java") is None:
        pytest.skip("there is no Java here")
    assert main(captions(files, "--tokenizer", tokenizer, "--out", str(files / "out.json"))) == 0
    found = json.loads((files / "out.json").read_text())
    words = {"python": PythonPTB, "java": JavaPTB}[tokenizer]()
    written = {str(entry["image_id"]): entry["caption"] for entry in RESULTS}
    expected = caption_scores(written, {str(i): texts for i, texts in REAL.items()}, words)
    assert {name: found[name] for name in expected} == {name: score.value for name, score in expected.items()}
    assert (found["n_expected"], found["n_scored"], found["tokenizer"]) == (2, 2, tokenizer)
    assert "n_expected 2, n_scored 2" in capsys.readouterr().out


def test_files_with_a_byte_order_mark_are_read(files, capsys):
    for name in ("results.json", "answers.json", "val.jsonl", "coco.json"):
        (files / name).write_text((files / name).read_text(), encoding="utf-8-sig")
    assert main(captions(files, "--tokenizer", "python")) == 0
    assert main(answers(files, EXACT)) == 0


def test_a_folder_that_is_not_there_is_found_before_the_work(files, capsys):
    out = ["--out", files / "none" / "out.json"]
    assert "out.json: cannot be written" in error_line(capsys, *captions(files, "--metrics", "no", *out))
    assert "out.json: cannot be written" in error_line(capsys, *answers(files, *out))


def test_answers(files, capsys):
    assert main(answers(files, EXACT, "--types", "type", "--out", str(files / "out.json"))) == 0
    found = json.loads((files / "out.json").read_text())
    assert found["accuracy"] == pytest.approx(2 / 3) and found["comp"] == 0.5 and found["presence"] == 1
    assert found["mean_of_types"] == 0.75 and found["metric"] == "ExactMatch"


def test_averages(tmp_path, capsys):
    for name, keys, value in (("a", CAPTIONS, 1.2), ("b", QUESTIONS, 0.5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps(dict.fromkeys(keys, value)))
    runs = [str(tmp_path / name) for name in "ab"]
    assert main(["score", "average", *runs]) == 0
    out = capsys.readouterr().out
    assert "cap_avg  120.00" in out and "qa_avg   50.00" in out
    assert "qa_avg needs 20 scores, 20 are missing: okvqa/accuracy" in error_line(capsys, "score", "average", runs[0])
    assert "no such file of scores" in error_line(capsys, "score", "average", tmp_path / "c")
    (tmp_path / "c.json").write_text(json.dumps({"coco/cider": 1.3}))
    for text, complaint in (("[]", "expected a JSON object"), ('{"coco/cider": "1"}', "is '1', which is no score")):
        (tmp_path / "d.json").write_text(text)
        assert complaint in error_line(capsys, "score", "average", tmp_path / "d.json")
    (tmp_path / "e.json").write_text('{"coco/cider": NaN}')
    assert "coco/cider is nan, which is no score" in error_line(capsys, "score", "average", tmp_path / "e.json")
    assert "coco/cider is 1.3 here but 1.2" in error_line(capsys, "score", "average", *runs, tmp_path / "c.json")


def test_mistakes(files, capsys):
    def results(content, ask):
        name = "results.json" if ask is captions else "answers.json"
        (files / name).write_text(content if isinstance(content, str) else json.dumps(content))
        more = ["--tokenizer", "python"] if ask is captions else [EXACT]
        return error_line(capsys, *ask(files, *more))

    assert "image_id 1 comes twice" in results([RESULTS[0], RESULTS[0]], captions)
    assert "1 of 2 image_ids have no result, first 2" in results(RESULTS[:1], captions)
    assert "1 image_ids are none of the references', first 9" in results(
        [*RESULTS, {"image_id": 9, "caption": ""}], captions
    )
    assert "results.json: not a JSON file" in results("{", captions)
    assert "results.json: expected a JSON list, got dict" in results({}, captions)
    assert "entry 0 is {'image_id': 1}, expected a list of {\"image_id\"" in results([{"image_id": 1}], captions)
    assert "3 of 3 question_ids have no result" in results([], answers)
    row = {"id": "0", "task": "answer", "image": "a.png", "question": "?", "answers": ["unknown"]}
    (files / "val.jsonl").write_text(json.dumps(row | {"meta": {"question_id": 0, "unanswered": True}}))
    assert "val.jsonl:1: only a server knows its answers" in error_line(capsys, *answers(files, EXACT))
    (files / "val.jsonl").write_text("{}")
    assert "val.jsonl:1: unknown task" in error_line(capsys, *answers(files, EXACT))
    (files / "coco.json").write_text('{"images": [], "annotations": [{}]}')
    assert "not COCO's captions" in error_line(capsys, *captions(files, "--tokenizer", "python"))
    assert "missing: --metric CLASS" in error_line(capsys, *answers(files))
