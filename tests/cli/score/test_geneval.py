"""`score geneval` and `selftest`: folders that the callback keeps, or anyone drew, and judges tried beforehand."""

import json

import pytest
import torch
from cli.runs import error_line
from judges import write_clip, write_mask2former
from PIL import Image
from toy import make_data, make_module, make_trainer

from callbacks import geneval
from callbacks.geneval import GenEval
from datamodules.shapes import Shapes
from datamodules.shapes.analyser import ShapesAnalyser
from unifluid.cli.main import main
from unifluid.decoding import ImageSampling

SHAPES = [f"--{judge}=datamodules.shapes.analyser.ShapesAnalyser" for judge in ("detector", "colours")]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A run of GenEval that keeps its images: 6 prompts, 2 images each, the second one wrong. The run's scores."""

    def generate_images(model, formatter, examples, sampling, seed, indices, progress):
        return torch.stack([e.target * (1 - i % 2) for i, e in zip(indices, examples, strict=True)])

    monkeypatch.setattr(geneval, "generate_images", generate_images)
    judge, prompts = ShapesAnalyser(), Shapes("generate", split="val")
    sampling = ImageSampling(batch_size=5)
    options = {"n": 1, "images_per_prompt": 2, "keep": str(tmp_path / "kept"), "sampling": sampling}
    make_trainer(tmp_path, GenEval(prompts, judge, judge, **options), steps=1).fit(make_module(), make_data())
    return json.loads((tmp_path / "scores.json").read_text())


def test_kept_images_score_the_same(tmp_path, drawn, capsys):
    assert drawn["geneval/overall"] == 0.5 and drawn["images_per_prompt/geneval"] == 2
    names = sorted(str(path.relative_to(tmp_path / "kept")) for path in (tmp_path / "kept").rglob("*.*"))
    assert (
        names[:3] == ["00000/metadata.jsonl", "00000/samples/0000.png", "00000/samples/0001.png"] and len(names) == 18
    )
    out, results = tmp_path / "out.json", tmp_path / "results.jsonl"
    ask = ["score", "geneval", "--images", str(tmp_path / "kept"), *SHAPES]
    assert main([*ask, "--out", str(out), "--results", str(results)]) == 0
    found = json.loads(out.read_text())
    assert found["geneval/overall"] == 0.5 and (found["n_expected"], found["n_scored"]) == (12, 12)
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["correct"] for line in lines] == [True, False] * 6
    assert {"filename", "tag", "prompt", "correct", "metadata", "details"} <= lines[0].keys()


def test_mistakes(tmp_path, drawn, capsys):
    kept = tmp_path / "kept"
    ask = ["score", "geneval", "--images", kept, *SHAPES]
    whole = (kept / "00000" / "metadata.jsonl").read_text()
    (kept / "00000" / "metadata.jsonl").write_text('{"tag": "colors"}')
    assert "00000/metadata.jsonl:1: not GenEval's metadata" in error_line(capsys, *ask)
    (kept / "00000" / "metadata.jsonl").write_text(whole)
    assert "missing: --detector CLASS" in error_line(capsys, "score", "geneval", "--images", kept)
    named = ["--detector=unifluid.evaluation.mask2former.Mask2Former", "--detector.folder=none", SHAPES[1]]
    assert "none: no such folder" in error_line(capsys, "score", "geneval", "--images", kept, *named)
    (kept / "00003" / "samples" / "0001.png").unlink()
    assert "00003/samples: 1 images, 2 expected" in error_line(capsys, *ask)
    Image.new("RGB", (9, 9)).save(kept / "00003" / "samples" / "0001.png")
    (kept / "00002" / "samples" / "0000.png").write_bytes(b"torn")
    assert "0000.png" in error_line(capsys, *ask) and "nothing is scored in part" in error_line(capsys, *ask)
    (kept / "00001" / "metadata.jsonl").unlink()
    assert "00001: holds no metadata.jsonl" in error_line(capsys, *ask)
    assert "not GenEval's layout" in error_line(capsys, "score", "geneval", "--images", kept / "00000", *SHAPES)


def test_selftest(tmp_path, capsys):
    assert main(["selftest", *SHAPES]) == 0
    assert "all 12 recognised" in capsys.readouterr().out
    write_mask2former(tmp_path / "m"), write_clip(tmp_path / "c")
    random = [
        "--detector", "unifluid.evaluation.mask2former.Mask2Former", "--detector.folder", tmp_path / "m",
        "--colours", "unifluid.evaluation.clip.CLIPColours", "--colours.folder", tmp_path / "c",
    ]  # fmt: skip
    assert "were not recognised: a photo of a stop sign" in error_line(capsys, "selftest", *random)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    clause = [{"class": "circle", "count": 1}]
    own = {"image": "a.png", "tag": "single_object", "prompt": "nothing there", "include": clause}
    (tmp_path / "own.jsonl").write_text(json.dumps(own))
    assert "1 of 13 were not recognised: nothing there" in error_line(
        capsys, "selftest", *SHAPES, "--images", tmp_path / "own.jsonl"
    )
    (tmp_path / "own.jsonl").write_text(json.dumps(own | {"image": "b.png"}))
    assert "own.jsonl:1: missing file" in error_line(capsys, "selftest", *SHAPES, "--images", tmp_path / "own.jsonl")
