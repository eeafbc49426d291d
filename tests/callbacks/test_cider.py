"""Scheduled scores of captions and answers are those of the texts that were written, and the texts are kept."""

import json
import shutil

import pytest
from toy import make_data, make_module, make_trainer

from callbacks import texts
from callbacks.answers import AnswerScore
from callbacks.cider import CIDEr
from datamodules.shapes import Shapes
from unifluid.decoding import TextSampling
from unifluid.evaluation import ptb
from unifluid.evaluation.captions import caption_scores
from unifluid.evaluation.ptb import PythonPTB
from unifluid.evaluation.questions import ANLS, ExactMatch
from unifluid.evaluation.submissions import AnswerList, AnswersById

CAPTIONS, ANSWERS = Shapes("caption", split="val"), Shapes("answer", split="val")


@pytest.fixture(autouse=True)
def write(monkeypatch):
    """The model writes what belongs to the next example but one; answers are right every third time."""

    def generate_text(model, formatter, examples, sampling, seed, indices, progress):
        if examples[0].task == "caption":
            return [CAPTIONS[i + 2].caption for i in indices]
        return [e.answers[0] if i % 3 == 0 else "nothing" for i, e in zip(indices, examples, strict=True)]

    monkeypatch.setattr(texts, "generate_text", generate_text)


def run(folder, callback):
    make_trainer(folder, callback, steps=1).fit(make_module(), make_data())
    return json.loads((folder / "scores.json").read_text())


def test_captions(tmp_path):
    callback = CIDEr(CAPTIONS, tokenizer=PythonPTB(), n=10, sampling=TextSampling(batch_size=4))
    scores = run(tmp_path, callback)
    written = {CAPTIONS[i].id: CAPTIONS[i + 2].caption for i in range(10)}
    real = {CAPTIONS[i].id: [CAPTIONS[i].caption] for i in range(10)}
    expected = caption_scores(written, real, PythonPTB())
    assert {name: scores[f"captions/{name}"] for name in expected} == {n: s.value for n, s in expected.items()}
    assert scores["tokenizer/captions"] == "python" and scores["captions/cider/low"] < scores["captions/cider"]
    kept = json.loads((tmp_path / "results" / "captions-captions.json").read_text())
    assert kept == [{"image_id": i, "caption": text} for i, text in written.items()]
    assert (tmp_path / "results" / "captions.png").exists()


def test_answers_by_type(tmp_path):
    callback = AnswerScore(ANSWERS, ExactMatch(), types="kind", n=12, sampling=TextSampling(batch_size=5))
    scores = run(tmp_path, callback)
    assert scores["qa/accuracy"] == pytest.approx(4 / 12) and scores["metric/qa"] == "ExactMatch"
    kinds = {}
    for i in range(12):
        kinds.setdefault(ANSWERS[i].meta["kind"], []).append(float(i % 3 == 0))
    means = [sum(right) / len(right) for right in kinds.values()]
    assert scores["qa/mean_of_types"] == pytest.approx(sum(means) / len(means))
    kept = json.loads((tmp_path / "results" / "qa-answers.json").read_text())
    assert kept[1] == {"question_id": ANSWERS[1].id, "answer": "nothing"} and len(kept) == 12


def test_answers_that_only_a_server_knows(tmp_path, monkeypatch):
    def unanswered(self, index, get=Shapes.__getitem__):
        example = get(self, index)
        example.meta["unanswered"] = True
        return example

    monkeypatch.setattr(Shapes, "__getitem__", unanswered)
    run_folder = tmp_path / "run"
    callback = AnswerScore(ANSWERS, ANLS(), n=3, prefix="docvqa", submission=AnswerList("questionId"))
    make_trainer(run_folder, callback, steps=1).fit(make_module(), make_data())
    kept = json.loads((run_folder / "results" / "docvqa-submission.json").read_text())
    assert AnswersById("direct_answer").content([(7, "cat")]) == {"7": {"direct_answer": "cat"}}
    assert [entry["questionId"] for entry in kept] == [ANSWERS[i].id for i in range(3)]
    assert not any(name.startswith("docvqa/") for name in json.loads((run_folder / "scores.json").read_text()))


def test_what_would_stop_it_stops_the_run_first(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="CIDEr needs a data set of task caption, got answer"):
        CIDEr(ANSWERS)
    with pytest.raises(ValueError, match="AnswerScore.types: 'kinds' is none of .*kind"):
        AnswerScore(ANSWERS, ExactMatch(), types="kinds").prepare(None, None)
    with pytest.raises(ValueError, match="AnswerScore.show must be a number of items, 0 for none, got -1"):
        AnswerScore(ANSWERS, ExactMatch(), show=-1)
    with pytest.raises(ValueError, match="AnswerScore needs a data set of task answer, got caption"):
        AnswerScore(CAPTIONS, ExactMatch())
    with pytest.raises(ValueError, match="metrics must be some of"):
        run(tmp_path, CIDEr(CAPTIONS, metrics=["spice"], tokenizer=PythonPTB()))
    with monkeypatch.context() as patch:
        patch.setattr(Shapes, "at", lambda self, index, pictures: CAPTIONS[index // 2])
        with pytest.raises(ValueError, match=f"image {CAPTIONS[0].id} comes twice"):
            run(tmp_path, CIDEr(CAPTIONS, tokenizer=PythonPTB(), n=3))
    monkeypatch.setattr(ptb.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="need Java"):
        run(tmp_path, CIDEr(CAPTIONS, n=2))


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")
def test_java_is_the_default(tmp_path):
    assert run(tmp_path, CIDEr(CAPTIONS, metrics=["cider"], n=4))["tokenizer/captions"] == "java"
