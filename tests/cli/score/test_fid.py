"""`score fid`: folders of images, whoever made them."""

import json

import numpy as np
import pytest
import torch
from cli.runs import error_line
from PIL import Image

from unifluid.cli.main import main
from unifluid.evaluation.features import EfficientNetLite0
from unifluid.evaluation.frechet import Normal, frechet_distance

LITE = ["--features=unifluid.evaluation.features.EfficientNetLite0", "--features.image_size=32"]


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for name, n, shape in (("drawn", 5, (24, 24)), ("real", 6, (30, 40))):
        (tmp_path / name).mkdir()
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_a_folder_beside_a_folder_and_its_statistics(folders, capsys):
    drawn, real, out = folders / "drawn", folders / "real", folders / "scores.json"
    ask = ["score", "fid", "--images", str(drawn), *LITE, "--out", str(out)]
    assert main([*ask, "--reference", str(real), "--keep-statistics", str(folders / "s.npz"), "--kid"]) == 0
    scores = json.loads(out.read_text())
    assert (
        {"frechet/efficientnet_lite0", "kid"} <= scores.keys() and scores["n/kid"] == 5 and scores["reference_n"] == 6
    )
    assert main([*ask, "--reference", str(folders / "s.npz"), "--batch-size", "2"]) == 0
    other = ["--features=unifluid.evaluation.features.EfficientNetLite0", "--features.image_size=64"]
    assert "s.npz: its network_image_size is 32, here 64" in error_line(
        capsys, "score", "fid", "--images", drawn, *other, "--reference", folders / "s.npz"
    )
    (folders / "larger").mkdir()
    for i in range(2):
        Image.new("RGB", (48, 48)).save(folders / "larger" / f"{i}.png")
    assert "s.npz: its size is 24, here 48" in error_line(
        capsys, "score", "fid", "--images", folders / "larger", *LITE, "--reference", folders / "s.npz"
    )
    again = json.loads(out.read_text())
    assert again["frechet/efficientnet_lite0"] == pytest.approx(scores["frechet/efficientnet_lite0"], rel=1e-6)
    images = [torch.from_numpy(np.array(Image.open(drawn / f"{i}.png"))).permute(2, 0, 1) for i in range(5)]
    features = EfficientNetLite0(image_size=32).extract(images, torch.device("cpu"))
    with np.load(folders / "s.npz") as kept:
        other = Normal(torch.from_numpy(kept["mu"]), torch.from_numpy(kept["sigma"]), 6)
    expected = frechet_distance(Normal.of(features), other)
    assert scores["frechet/efficientnet_lite0"] == pytest.approx(expected, rel=1e-5)


def test_mistakes(folders, capsys, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folders))
    drawn, real = folders / "drawn", folders / "real"
    ask = ["score", "fid", "--images", drawn, "--reference"]
    assert "weights-inception-2015-12-05-6726825d.pth" in error_line(capsys, *ask, real)
    assert "no such folder of images" in error_line(capsys, *ask, folders / "none", *LITE)
    (folders / "empty").mkdir()
    assert "0 images" in error_line(capsys, *ask, folders / "empty", *LITE)
    assert "--inception-score needs the features of Inception" in error_line(
        capsys, *ask, real, *LITE, "--inception-score"
    )
    assert "device 'no'" in error_line(capsys, *ask, real, *LITE, "--device", "no")
    (folders / "s.npz").write_bytes(b"no")
    assert "s.npz: no statistics of features" in error_line(capsys, *ask, folders / "s.npz", *LITE)
    for path in sorted(drawn.iterdir())[3:]:
        path.unlink()
    few = error_line(capsys, *ask, real, *LITE, "--precision-recall")
    assert "precision and recall need at least 4 images on both sides, got 3" in few
    Image.new("RGB", (9, 9)).save(drawn / "small.png")
    for batch in ("32", "1"):  # the odd one is found whatever it shares a batch with
        odd = error_line(capsys, *ask, real, *LITE, "--batch-size", batch)
        assert "small.png is 9x9, others are 24x24" in odd
    (drawn / "small.png").write_bytes(b"no")
    assert "small.png: no image that can be read" in error_line(capsys, *ask, real, *LITE)
    out = error_line(capsys, *ask, real, *LITE, "--out", folders / "none" / "x.json")
    assert "x.json: cannot be written" in out
    assert error_line(capsys, "score", "fud").endswith("; did you mean fid?")
