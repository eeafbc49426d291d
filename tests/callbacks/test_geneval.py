"""Perfect pictures score 1, pictures of other prompts hardly anything; every image is drawn from its own index."""

import functools
import json

import pytest
from toy import make_data, make_module, make_trainer, replace_drawing

from callbacks import geneval
from callbacks.geneval import GenEval
from datamodules.shapes import Shapes
from datamodules.shapes.analyser import ShapesAnalyser
from unifluid.decoding import ImageSampling
from unifluid.evaluation.geneval import TAGS
from unifluid.evaluation.scores import Score

PROMPTS = Shapes("generate", split="val")


@pytest.fixture
def draw(monkeypatch):
    return functools.partial(replace_drawing, monkeypatch, geneval)


def scores_of(tmp_path, **options):
    evaluator = GenEval(options.pop("dataset", PROMPTS), ShapesAnalyser(), ShapesAnalyser(), **options)
    make_trainer(tmp_path, evaluator, steps=1).fit(make_module(), make_data())
    return json.loads((tmp_path / "scores.json").read_text())


def test_no_prompts_at_all_are_refused():
    with pytest.raises(ValueError, match="GenEval needs n and images_per_prompt of at least 1, got 0 and 1"):
        GenEval(PROMPTS, ShapesAnalyser(), ShapesAnalyser(), n=0)


def test_perfect_pictures(tmp_path, draw):
    calls = draw(lambda i, example: example.target)
    scores = scores_of(tmp_path, n=4, seed=3, sampling=ImageSampling(steps=7))
    assert [scores[f"geneval/{tag}"] for tag in (*TAGS, "overall")] == [1.0] * 7
    assert [scores[f"n/geneval/{tag}"] for tag in (*TAGS, "overall")] == [4] * 6 + [24]
    assert scores["sampling/geneval/steps"] == 7 and scores["sampling/geneval/guidance"] == 1.0
    ((examples, sampling, seed, indices),) = calls
    assert [e.id for e in examples] == [PROMPTS[i].id for i in range(24)]  # its categories take turns
    assert (sampling.steps, seed, indices) == (7, 3, list(range(24)))


def test_one_wrong_category(tmp_path, draw):
    draw(lambda i, example: example.target * (example.meta["tag"] != "position"))
    scores = scores_of(tmp_path, n=3)
    assert scores["geneval/position"] == 0 and scores["geneval/overall"] == pytest.approx(5 / 6)
    right, wrong = Score.of([True] * 3), Score.of([False] * 3)
    overall = Score.mean([right] * 5 + [wrong])
    assert scores["geneval/overall/low"] == overall.low and scores["geneval/position/high"] == wrong.high


def test_compositional_split_and_images_per_prompt(tmp_path, draw):
    held_out = Shapes("generate", split="compositional")
    draw(lambda i, example: example.target * (i % 2))
    tags = ("colors", "color_attr")
    scores = scores_of(tmp_path, dataset=held_out, tags=tags, n=2, images_per_prompt=2, prefix="compositional")
    assert scores["compositional/colors"] == 0.5 and scores["n/compositional/color_attr"] == 4
    assert "compositional/overall" not in scores


def test_prompts_are_looked_for_before_training(tmp_path):
    held_out = Shapes("generate", split="compositional")
    with pytest.raises(ValueError, match="no single_object, two_object, counting, position prompt in"):
        scores_of(tmp_path, dataset=held_out, n=1)
    with pytest.raises(ValueError, match="tags must be some of"):
        scores_of(tmp_path, tags=("shape",))


def test_a_real_model_end_to_end(tmp_path):
    scores = scores_of(tmp_path, n=1, sampling=ImageSampling(steps=1))
    assert scores["geneval/overall"] == 0.0 and scores["weights/geneval"] == "raw"
