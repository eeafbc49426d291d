"""The distance between what is drawn and what is real, on any features, whatever blocks, ranks and interruptions."""

import json

import numpy as np
import pytest
import torch
from toy import make_data, make_module, make_trainer

from callbacks import fid
from callbacks.fid import FID
from datamodules.shapes import Shapes
from unifluid.decoding import ImageSampling
from unifluid.evaluation.frechet import Normal, frechet_distance
from unifluid.evaluation.inception import Inception
from unifluid.evaluation.statistics import Statistics, read_statistics
from unifluid.interfaces import FeatureExtractor
from unifluid.sequence import centre_square

PROMPTS = Shapes("generate", split="val", length=30)


class Corners(FeatureExtractor):
    """Features anyone can compute: mean colours of the four quarters."""

    name = "corners"

    def __init__(self, fail=False):
        self.fail, self.seen = fail, 0

    def load(self):
        if self.fail:
            raise ValueError("put the file there")

    def extract(self, images, device):
        self.seen += len(images)
        quarters = torch.nn.functional.adaptive_avg_pool2d(torch.stack(list(images)).float(), 2)
        return quarters.flatten(1)


@pytest.fixture(autouse=True)
def draw(monkeypatch):
    """The model draws the picture of another prompt."""

    def generate_images(model, formatter, examples, sampling, seed, indices, progress):
        return torch.stack([centre_square(PROMPTS[(i + 7 + seed) % 30].target, 8) for i in indices])

    monkeypatch.setattr(fid, "generate_images", generate_images)


def run(folder, **options):
    callback = FID(
        PROMPTS, options.pop("features", Corners()), **{"n": 20, "sampling": ImageSampling(batch_size=8)} | options
    )
    make_trainer(folder, callback, steps=1).fit(make_module(), make_data())
    return json.loads((folder / "scores.json").read_text()), callback


def expected(n=20):
    drawn, real = (
        Corners().extract([centre_square(PROMPTS[(i + shift) % 30].target, 8) for i in range(n)], None)
        for shift in (7, 0)
    )
    return frechet_distance(Normal.of(drawn), Normal.of(real))


def test_the_distance_is_that_of_all_pictures_in_any_batches(tmp_path):
    scores, callback = run(tmp_path / "a")
    assert scores["images/frechet/corners"] == pytest.approx(expected(), rel=1e-9)
    assert scores["n/images/frechet/corners"] == 20 and scores["network/images"] == "corners"
    other, _ = run(tmp_path / "b", sampling=ImageSampling(batch_size=3))
    assert other["images/frechet/corners"] == pytest.approx(scores["images/frechet/corners"], rel=1e-9)
    assert callback.features.seen == 40
    assert (tmp_path / "a" / "results" / "images.png").exists()


def test_statistics_are_made_once_and_refused_where_they_differ(tmp_path):
    file = tmp_path / "real.npz"
    first, _ = run(tmp_path / "a", statistics=str(file), kid=True, precision_recall=True)
    assert {"images/kid", "images/precision", "images/recall"} <= first.keys()
    kept = read_statistics(file)
    assert kept.normal.n == 20 and kept.features.shape == (20, 12) and kept.about["network"] == "corners"
    again, callback = run(tmp_path / "b", statistics=str(file), kid=True)
    assert again["images/frechet/corners"] == pytest.approx(first["images/frechet/corners"], rel=1e-9)
    assert callback.features.seen == 20, "only what was drawn"
    with pytest.raises(ValueError, match="its n is 20, here 21: name another file"):
        run(tmp_path / "c", statistics=str(file), n=21)
    plain, _ = run(tmp_path / "d", statistics=str(tmp_path / "plain.npz"))
    with pytest.raises(ValueError, match="holds no features, which kid and precision_recall need"):
        run(tmp_path / "e", statistics=str(tmp_path / "plain.npz"), kid=True)


def test_the_runs_own_statistics_are_made_anew_where_they_no_longer_fit(tmp_path):
    run(tmp_path)
    _, callback = run(tmp_path, n=10)
    assert (
        callback.features.seen == 20 and read_statistics(tmp_path / "results" / "images-reference.npz").normal.n == 10
    )


def test_the_runs_own_statistics_are_made_anew_where_they_are_damaged(tmp_path):
    run(tmp_path)
    (tmp_path / "results" / "images-reference.npz").write_bytes(b"no statistics")
    _, callback = run(tmp_path)
    assert callback.features.seen == 40, "the real pictures as well"


def test_statistics_of_data_that_has_changed_are_made_anew(tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(fid, "contents", lambda about: {"data.jsonl": "another sha256"})
    _, callback = run(tmp_path)
    assert callback.features.seen == 40, "the real pictures as well"


def test_another_projects_file_is_read(tmp_path):
    real = Corners().extract([centre_square(PROMPTS[i].target, 8) for i in range(20)], None).double().numpy()
    np.savez(tmp_path / "theirs.npz", mu=real.mean(0), sigma=np.cov(real, rowvar=False))
    scores, _ = run(tmp_path, statistics=str(tmp_path / "theirs.npz"))
    assert scores["images/frechet/corners"] == pytest.approx(expected(), rel=1e-9)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"mu": np.zeros(3)}, "no statistics of features"),
        ({"mu": np.zeros(3), "sigma": np.zeros((2, 2))}, "do not belong together"),
        ({"mu": np.array([object()]), "sigma": np.zeros((1, 1))}, "no statistics of features"),
    ],
)
def test_files_that_are_no_statistics(content, complaint, tmp_path):
    np.savez(tmp_path / "x.npz", **content)
    with pytest.raises(ValueError, match=complaint):
        read_statistics(tmp_path / "x.npz")


def test_statistics_survive_the_disk(tmp_path):
    features = torch.randn(9, 4)
    Statistics.of(features, {"data": {"a": [1, 2]}}, keep=True).write(tmp_path / "deep" / "s.npz")
    found = read_statistics(tmp_path / "deep" / "s.npz")
    assert torch.equal(found.features, features) and found.about == {"data": {"a": [1, 2]}}
    assert torch.equal(found.normal.covariance, Normal.of(features).covariance) and found.normal.n == 9
    with pytest.raises(ValueError, match="no such file of statistics"):
        read_statistics(tmp_path / "none.npz")


def test_what_is_missing_stops_the_run_before_it_starts(tmp_path):
    with pytest.raises(ValueError, match="put the file there"):
        run(tmp_path, features=Corners(fail=True))
    with pytest.raises(ValueError, match="n must be at least 2"):
        run(tmp_path, n=1)
    with pytest.raises(ValueError, match="inception_score needs the features of"):
        run(tmp_path, inception_score=True)
    with pytest.raises(FileNotFoundError, match="no such file of Inception weights"):
        run(tmp_path, features=Inception(str(tmp_path / "none.pth")))


def test_pictures_that_are_not_square_lose_their_sides():
    image = torch.zeros(3, 4, 10, dtype=torch.uint8)
    image[:, :, 3:7] = 200
    assert (centre_square(image, 4) == 200).all() and centre_square(image, 2).shape == (3, 2, 2)
