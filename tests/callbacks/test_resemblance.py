"""Pictures as asked score as real ones do, others do not; features come from a checkpoint of the kit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from cards import THINGS, Cards, card
from toy import make_data, make_module, make_trainer

from callbacks import resemblance
from callbacks.ema import EMA
from callbacks.features import EncoderFeatures
from callbacks.resemblance import Resemblance
from datamodules.mixture import Mixture, Stream
from unifluid.decoding import ImageSampling
from unifluid.encoders import Patches
from unifluid.interfaces import FeatureExtractor
from unifluid.modules.contrastive import ContrastiveModule
from unifluid.optimization import AdamW
from unifluid.sequence import to_unit

ASKED, GALLERY = Cards(colour=5), Cards(copies=3)


class Ink(FeatureExtractor):
    """How much of each channel's ink each corner has."""

    name = "ink"

    def load(self) -> None:
        self.loaded = True

    def extract(self, images, device):
        assert self.loaded
        return ink(torch.stack(list(images)).float())


def ink(x):
    return (255 - x).reshape(len(x), 3, 2, 4, 2, 4).mean((3, 5)).reshape(len(x), -1)


@pytest.fixture
def draw(monkeypatch):
    """Replaces the model's drawing: `draw(picture)` has `picture(i, example)` drawn for image i; gives the calls."""

    def install(picture):
        calls = []

        def generate_images(model, formatter, examples, sampling, seed, indices, progress):
            calls.append((sampling, seed, indices))
            return torch.stack([picture(i, example) for i, example in zip(indices, examples, strict=True)])

        monkeypatch.setattr(resemblance, "generate_images", generate_images)
        return calls

    return install


def scores_of(tmp_path, features=None, **options):
    evaluator = Resemblance(ASKED, GALLERY, features or Ink(), **options)
    make_trainer(tmp_path, evaluator, steps=1).fit(make_module(), make_data())
    return json.loads((tmp_path / "scores.json").read_text())


def test_perfect_pictures_score_as_real_ones(tmp_path, draw):
    calls = draw(lambda i, example: example.target)
    scores = scores_of(tmp_path, seed=3, sampling=ImageSampling(steps=7))
    assert scores["resemblance/concept"] == scores["resemblance/concept_real"] == 1
    assert scores["n/resemblance/concept"] == 16 and 0.7 < scores["resemblance/concept/low"] < 1
    distance = scores["resemblance/frechet/ink"]
    assert distance == scores["resemblance/frechet/ink_real"] > 1
    assert "resemblance/frechet/ink/low" not in scores
    assert scores["sampling/resemblance/steps"] == 7
    assert calls == [(ImageSampling(steps=7), 3, list(range(16)))]


def test_the_distance_is_that_of_all_drawn_pictures_to_the_gallery(tmp_path, draw, capsys):
    draw(lambda i, example: card(THINGS[i % 8], 50 + i))
    scores = scores_of(tmp_path, prefix="cards")
    drawn = [card(THINGS[i % 8], 50 + i) for i in range(16)]
    real = [GALLERY[i].target for i in range(24)]
    a, b = (ink(np.stack([x.numpy() for x in images]).astype(float)) for images in (drawn, real))
    values = np.linalg.eigvals(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)).real.clip(0)
    spread = np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False)) - 2 * np.sqrt(values).sum()
    expected = np.square(a.mean(0) - b.mean(0)).sum() + spread
    assert scores["cards/frechet/ink"] == pytest.approx(expected, rel=1e-5)
    assert scores["cards/frechet/ink"] != scores["cards/frechet/ink_real"]
    assert "frechet/ink_real" in capsys.readouterr().out


def test_pictures_of_something_else_are_wrong(tmp_path, draw):
    draw(lambda i, example: ASKED[(i + (i % 4 == 0)) % 16].target)  # every fourth shows the next card's thing
    scores = scores_of(tmp_path)
    assert scores["resemblance/concept"] == 12 / 16 and scores["resemblance/concept_real"] == 1


def test_what_would_stop_it_stops_the_run_first(tmp_path, draw):
    calls = draw(lambda i, example: example.target)
    with pytest.raises(FileNotFoundError, match=r"gone\.ckpt"):
        scores_of(tmp_path, EncoderFeatures(tmp_path / "gone.ckpt"))
    with pytest.raises(ValueError, match="need task generate and a meta field 'kind'"):
        scores_of(tmp_path, label="kind")
    with pytest.raises(ValueError, match="n is 17, but its data set has 16 examples"):
        scores_of(tmp_path, n=17)
    assert calls == []


# -- features of a contrastive run ------------------------------------------------------------------------------------


def test_features_are_those_of_the_averaged_encoder(tmp_path):
    encoder = Patches(image_size=8, patch_size=4, width=16, depth=1, heads=2)
    module, ema = ContrastiveModule(encoder, AdamW(lr=1e-2), width=6), EMA(decay=0.5)
    trainer = make_trainer(tmp_path, ema, steps=3)
    trainer.fit(module, Mixture({"edit": Stream(Cards("edit"), rows=8)}))
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=False)
    features = EncoderFeatures(tmp_path / "last.ckpt", name="cards")
    features.load()
    images = [card(thing, colour, size) for thing in THINGS for colour, size in ((1, 8), (2, 30))]
    with torch.no_grad(), ema.swapped(module):
        expected = module.eval()(torch.stack([to_unit(image, 8) for image in images]))
    made = features.extract(images, torch.device("cpu"))
    assert made.shape == (16, 6) and (made - expected).abs().max() < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features.extract(images, torch.device("cpu")), made)


def test_checkpoints_of_other_models_have_no_features(tmp_path):
    trainer = make_trainer(tmp_path, steps=1)
    trainer.fit(make_module(image_encoder=Patches(8, 4, 16, depth=1, heads=2)), make_data())
    trainer.save_checkpoint(tmp_path / "other.ckpt", weights_only=False)
    with pytest.raises(ValueError, match="trusted packages|no contrastive run"):
        EncoderFeatures(tmp_path / "other.ckpt").load()
