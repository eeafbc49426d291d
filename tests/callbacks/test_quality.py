"""Mean and distribution of a quality over what is drawn, beside that of real pictures."""

import json

import numpy as np
import pytest
import torch
from toy import make_data, make_module, make_trainer

from callbacks import quality
from callbacks.quality import Quality
from datamodules.shapes import Shapes
from unifluid.decoding import ImageSampling
from unifluid.evaluation.quality import Colourfulness
from unifluid.evaluation.scores import Score
from unifluid.interfaces import ImageQuality

PROMPTS = Shapes("generate", split="val")
CPU = torch.device("cpu")


class Brightness(ImageQuality):
    name = "bright/ness"  # a name may have slashes

    def __init__(self, missing=False):
        self.missing = missing

    def load(self):
        if self.missing:
            raise OSError("put the weights there")

    def scores(self, images, device):
        return [float(image.float().mean()) for image in images]


@pytest.fixture(autouse=True)
def draw(monkeypatch):
    """The model draws the picture of another prompt, half as bright."""

    def generate_images(model, formatter, examples, sampling, seed, indices, progress):
        return torch.stack([drawn(i + seed) for i in indices])

    monkeypatch.setattr(quality, "generate_images", generate_images)


def drawn(i):
    return PROMPTS[i + 100].target // 2


def run(tmp_path, measure, **options):
    callback = Quality(PROMPTS, measure, sampling=ImageSampling(batch_size=8), **options)
    make_trainer(tmp_path, callback, steps=1).fit(make_module(), make_data())
    return json.loads((tmp_path / "scores.json").read_text())


@pytest.mark.parametrize("measure", [Colourfulness(), Brightness()], ids=lambda measure: measure.name)
def test_the_mean_and_the_distribution(measure, tmp_path):
    scores, name = run(tmp_path, measure, n=21, seed=2), f"quality/{measure.name}"
    values = measure.scores([drawn(i + 2) for i in range(21)], CPU)
    real = measure.scores([PROMPTS[i].target for i in range(21)], CPU)
    expected, expected_real = Score.of_values(values), Score.of_values(real)
    assert scores[name] == pytest.approx(np.mean(values)) and scores[f"n/{name}"] == 21
    assert (scores[f"{name}/low"], scores[f"{name}/high"]) == pytest.approx((expected.low, expected.high))
    assert scores[f"{name}/real"] == pytest.approx(expected_real.value) and expected_real.value > expected.value
    for percent in (10, 50, 90):
        assert scores[f"{name}/p{percent}"] == pytest.approx(np.percentile(values, percent))  # of 21: no interpolation
        assert f"{name}/p{percent}/low" not in scores
    items = json.loads((tmp_path / "results" / "quality_items.json").read_text())
    assert items == {measure.name: pytest.approx(values), f"{measure.name}/real": pytest.approx(real)}
    assert (tmp_path / "results" / "quality.png").exists()


def test_mistakes_stop_the_run_before_it_starts(tmp_path):
    with pytest.raises(OSError, match="put the weights there"):
        run(tmp_path, Brightness(missing=True))
    with pytest.raises(ValueError, match="^quality: Quality needs a data set of task generate, got edit"):
        make_trainer(tmp_path, Quality(Shapes("edit"), Brightness()), steps=1).fit(make_module(), make_data())
