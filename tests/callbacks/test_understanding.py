"""What a scripted model gets right is what is reported, everywhere; draws and weights are those asked for."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import make_data, make_module, make_trainer

from callbacks import texts
from callbacks.ema import EMA
from callbacks.last import LastCheckpoint
from callbacks.understanding import CaptionAccuracy, QuestionAccuracy
from datamodules.shapes import Shapes
from unifluid.decoding import TextSampling
from unifluid.evaluation.scores import Score

ANSWERS = Shapes("answer", split="val")
CAPTIONS = Shapes("caption", split="val")


@pytest.fixture
def scripted(monkeypatch):
    """A model that reads its answers from a table: index -> text, '' elsewhere; records how it was called."""
    table, calls = {}, []

    def generate_text(model, formatter, examples, sampling, seed, indices, progress):
        calls.append({"examples": examples, "indices": indices, "sampling": sampling, "seed": seed})
        calls[-1]["weight"] = model.encoder_projection.weight.detach().clone()
        progress(len(examples), len(examples))
        return [table.get(i, "") for i in indices]

    monkeypatch.setattr(texts, "generate_text", generate_text)
    table["calls"] = calls
    return table


def run(tmp_path, *callbacks, **options):
    trainer = make_trainer(tmp_path, *callbacks, steps=2, **options)
    trainer.fit(module := make_module(), make_data())
    return trainer, module


def test_captions_right_however_worded(tmp_path, scripted, capsys):
    for i in range(0, 20, 2):
        scripted[i] = CAPTIONS[i].caption
    things = CAPTIONS[1].caption
    for lead in ("i see ", "there is ", "a picture of ", "this picture shows "):
        things = things.removeprefix(lead)
    scripted[1] = "i see " + things.split(" background with ")[-1].split(" on a")[0]
    scripted[3] = CAPTIONS[3].caption + " and a large red circle"
    trainer, _ = run(tmp_path, CaptionAccuracy(CAPTIONS, n=20, seed=5), logger=True)
    scores = json.loads((tmp_path / "scores.json").read_text())
    expected = Score.of([True] * 11 + [False] * 9)
    assert scores["captions/exact"] == 11 / 20 and scores["n/captions/exact"] == 20
    assert (scores["captions/exact/low"], scores["captions/exact/high"]) == (expected.low, expected.high)
    assert scores["weights/captions"] == "raw" and scores["step/captions"] == 2
    assert scores["sampling/captions/beams"] == 1
    events = EventAccumulator(trainer.logger.log_dir).Reload()
    assert [(e.step, e.value) for e in events.Scalars("captions/exact")] == [(2, pytest.approx(0.55))]
    assert "0.550" in capsys.readouterr().out
    assert scripted["calls"][0]["seed"] == 5


def test_answers_by_kind(tmp_path, scripted):
    kinds = {ANSWERS[i].meta["kind"] for i in range(18)}
    for i in range(18):
        example = ANSWERS[i]
        scripted[i] = example.answers[0] if example.meta["kind"] == "colour" else "nothing"
    run(tmp_path, QuestionAccuracy(ANSWERS, n=18, sampling=TextSampling(max_tokens=4)))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {kind: scores[f"qa/{kind}"] for kind in kinds} == {kind: float(kind == "colour") for kind in kinds}
    assert scores["qa/accuracy"] == pytest.approx(scores["n/qa/colour"] / 18)
    assert scripted["calls"][0]["sampling"].max_tokens == 4


def test_weights_and_names(tmp_path, scripted):
    callbacks = [EMA(0.5), QuestionAccuracy(ANSWERS, n=2), QuestionAccuracy(ANSWERS, n=2, weights="raw")]
    _, module = run(tmp_path, *callbacks)
    averaged, raw = (call["weight"] for call in scripted["calls"])
    assert torch.equal(averaged, callbacks[0].weights["model.encoder_projection.weight"])
    assert torch.equal(raw, module.model.encoder_projection.weight)
    assert not torch.equal(averaged, raw)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["weights/qa"] == "ema" and scores["weights/qa_raw"] == "raw"
    assert "qa/accuracy" in scores and "qa_raw/accuracy" in scores


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_checkpoint_scores_as_in_fit(tmp_path, precision):
    """With a real model: the same texts, scores, names and step from `fit` and from `validate`."""
    written = []

    class Spy(QuestionAccuracy):
        def judge(self, module, items, indices, progress):
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16-mixed")
            written.append(texts.generate_text(module.model, module.formatter, items, self.sampling, 0, indices))
            return super().judge(module, items, indices, progress)

    def callbacks():
        return EMA(0.5), Spy(ANSWERS, n=6, sampling=TextSampling(temperature=1.0, max_tokens=5))

    make_trainer(tmp_path, *callbacks(), LastCheckpoint(), steps=3, precision=precision).fit(make_module(), make_data())
    found = json.loads((tmp_path / "scores.json").read_text())
    (tmp_path / "scores.json").unlink()
    trainer = make_trainer(tmp_path, *callbacks(), precision=precision, limit_val_batches=1)
    trainer.validate(make_module(), make_data(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again.keys() == found.keys() and found.pop("seconds/qa") > 0 and again.pop("seconds/qa") > 0
    assert again == found
    assert len(set(written[0])) > 1 and written[0] == written[1]


def test_evaluation_does_not_change_training(tmp_path):
    plain, watched = make_module(), make_module()
    make_trainer(tmp_path, EMA(0.5), steps=3).fit(plain, make_data())
    sampling = TextSampling(temperature=1.0, max_tokens=3)
    callbacks = EMA(0.5), QuestionAccuracy(ANSWERS, n=2, sampling=sampling, every=1)
    make_trainer(tmp_path, *callbacks, steps=3).fit(watched, make_data())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert [m.training for m in plain.modules()] == [m.training for m in watched.modules()]


def test_more_examples_than_there_are():
    with pytest.raises(ValueError, match="n is 9, but its data set has 3"):
        CaptionAccuracy(Shapes("caption", length=3), n=9)
