"""generate, caption, answer, edit, export: what they write and what they say to mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
from cli.runs import error_line
from PIL import Image
from safetensors import SafetensorError
from toy import make_module

import unifluid
from datamodules.images import to_image
from unifluid import checkpoints
from unifluid.cli.main import main
from unifluid.modules.autoencoder import AutoencoderModule
from unifluid.optimization import AdamW
from unifluid.storage import load, save
from unifluid.tokenizers import SmallKL


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    module = make_module()
    module.configure_model()
    module.model.load_state_dict(tiny.model().state_dict())
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    save(content, path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        to_image(tiny.image(i, size=20)).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(3)]


def run(command, checkpoint, *flags) -> int:
    return main([command, "--ckpt", str(checkpoint), "--allow-module", "tiny", *map(str, flags)])


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_generate_writes_pictures_grid_and_records(checkpoint, tmp_path):
    flags = ["--prompt", "a cat", "--prompt", "../../evil", "--n", 2, "--steps", 3, "--guidance", 2, "--seed", 7]
    assert run("generate", checkpoint, *flags, "--batch-size", 3, "--out", tmp_path) == 0
    names = [f"{i:05d}.png" for i in range(4)]
    assert sorted(p.name for p in tmp_path.iterdir()) == [*names, "grid.png", "results.jsonl"]
    records = lines(tmp_path)
    assert [r["file"] for r in records] == names
    assert [r["prompt"] for r in records] == ["a cat", "a cat", "../../evil", "../../evil"]
    assert (records[3]["weights"], records[3]["seed"], records[3]["guidance"]) == ("raw", 7, 2)
    # each picture is the one that its seed, index and prompt give in Python
    pipeline = unifluid.load(checkpoint, device="cpu", allow=["tiny"])
    [expected] = pipeline.generate("../../evil", seed=7, indices=[3], steps=3, guidance=2.0)
    made = np.asarray(Image.open(tmp_path / "00003.png")).astype(int)
    assert np.abs(made - np.asarray(expected)).max() <= 1
    width, height = Image.open(tmp_path / "grid.png").size
    assert width == height == 2 * (6 + 2) + 2


def test_prompts_come_from_files(checkpoint, tmp_path, pictures):
    (tmp_path / "prompts.txt").write_text("a cat\n\na dög\n", encoding="utf-8")
    assert (
        run("generate", checkpoint, "--prompts", tmp_path / "prompts.txt", "--steps", 1, "--out", tmp_path / "a") == 0
    )
    assert [r["prompt"] for r in lines(tmp_path / "a")] == ["a cat", "a dög"]
    rows = [{"id": "x/y", "image": pictures[0], "question": "what?"}, {"image": pictures[1:], "question": "same?"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = ["--prompts", tmp_path / "rows.jsonl", "--max-tokens", 4, "--out", tmp_path / "b"]
    assert run("answer", checkpoint, *flags) == 0
    assert [(r["id"], len(r["image"])) for r in lines(tmp_path / "b")] == [("x/y", 1), ("2", 2)]


def test_texts_are_printed_and_recorded(checkpoint, tmp_path, pictures, capsys):
    flags = ["--image", *pictures, "--max-tokens", 5]
    assert run("caption", checkpoint, *flags, "--out", tmp_path) == 0
    printed = capsys.readouterr().out.splitlines()
    pipeline = unifluid.load(checkpoint, device="cpu", allow=["tiny"])
    expected = pipeline.caption(pictures, max_tokens=5)
    assert printed == [f"{image}: {text}" for image, text in zip(pictures, expected, strict=True)]
    assert [r["text"] for r in lines(tmp_path)] == expected
    assert run("answer", checkpoint, *flags, "--question", "what?", "--beams", 2) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_runs_folder_stands_for_its_checkpoint(checkpoint, tmp_path):
    assert run("generate", checkpoint.parent, "--prompt", "a cat", "--steps", 1, "--out", tmp_path) == 0


def test_edit_and_export(checkpoint, tmp_path, pictures, capsys):
    flags = ["--image", *pictures, "--instruction", "red", "--steps", 2, "--order", "raster", "--source-guidance", 1.5]
    assert run("edit", checkpoint, *flags, "--out", tmp_path / "a") == 0
    assert main(["export", "--ckpt", str(checkpoint), "--out", str(tmp_path / "model")]) == 0
    assert run("edit", tmp_path / "model", *flags, "--out", tmp_path / "b") == 0
    for i in range(3):
        assert (tmp_path / "a" / f"{i:05d}.png").read_bytes() == (tmp_path / "b" / f"{i:05d}.png").read_bytes()


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        ("generate", [], "nothing to generate: give --prompt or --prompts"),
        ("generate", ["--prompt", " "], "the prompt of item 0 is empty"),
        ("generate", ["--prompt", "a", "--n", "0"], "argument --n: a whole number of at least 1, got '0'"),
        ("generate", ["--prompt", "a", "--order", "1,2"], "order must be a permutation"),
        ("generate", ["--prompt", "a", "--order", "1,x"], "argument --order: random, raster, or numbers"),
        ("generate", ["--prompt", "a", "--steps", "2.5"], "argument --steps: invalid int value: '2.5'"),
        ("generate", ["--prompt", "a", "--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        ("generate", ["--prompt", "a", "--batch-size", "-1"], "argument --batch-size: a whole number"),
        ("generate", ["--prompt", "a", "--guidance", "much"], "argument --guidance: invalid float value: 'much'"),
        ("generate", ["--prompt", "a", "--guidance", "nan"], "guidance must be a finite number, got nan"),
        ("generate", ["--prompt", "a", "--temperature", "-1"], "temperature must not be negative, got -1.0"),
        ("generate", ["--prompt", "a", "--device", "gpuu"], "device 'gpuu': Expected one of cpu, cuda"),
        ("generate", ["--prompt", "a", "--device", "meta"], "device 'meta' computes nothing"),
        ("generate", ["--prompt", "a", "--guidance-schedule", "up"], "schedule must be one of"),
        ("generate", ["--prompt", "a", "--temprature", "1"], "--temprature"),
        ("generate", ["--prompts", "nowhere.txt"], "nowhere.txt: No such file"),
        ("caption", ["--image", "nowhere.png"], "--image: nowhere.png does not exist"),
        ("caption", ["--image", "."], "--image: . is a folder: name the pictures in it, ./*.png"),
        ("generate", ["--prompts", "/dev/null"], "--prompts: /dev/null holds no text"),
        ("caption", ["--image", __file__], "not an image"),
        ("answer", ["--image", __file__], "nothing to answer: give --image and --question"),
        (
            "answer",
            ["--image", __file__, __file__, "--question", "a", "--question", "b", "--question", "c"],
            "2 pictures",
        ),
    ],
)
def test_mistakes_end_in_one_line(checkpoint, command, flags, message, tmp_path, capsys):
    arguments = [command, "--ckpt", checkpoint, "--allow-module", "tiny", "--out", tmp_path / "out", *flags]
    assert message in error_line(capsys, *arguments)


def test_a_setting_that_is_refused_leaves_earlier_results(checkpoint, tmp_path, capsys):
    ask = ["generate", "--ckpt", checkpoint, "--allow-module", "tiny", "--prompt", "a", "--steps", 1, "--out", tmp_path]
    assert main([str(part) for part in ask]) == 0
    before = (tmp_path / "results.jsonl").read_bytes()
    assert "order must be a permutation" in error_line(capsys, *ask, "--order", "1,2")
    assert (tmp_path / "results.jsonl").read_bytes() == before != b""


def test_texts_that_are_written_stay_whatever_comes_after(checkpoint, tmp_path, pictures, capsys):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    flags = ["--image", pictures[0], tmp_path / "broken.png", "--batch-size", 1, "--max-tokens", 3, "--out", tmp_path]
    assert run("caption", checkpoint, *flags) != 0
    assert str(pictures[0]) in capsys.readouterr().out
    assert len(lines(tmp_path)) == 1


def test_a_full_disk_is_said_to_be_full(checkpoint, tmp_path, capsys):
    (tmp_path / "results.jsonl").symlink_to("/dev/full")
    ask = ["generate", "--ckpt", checkpoint, "--allow-module", "tiny", "--prompt", "a", "--steps", 1, "--out", tmp_path]
    assert error_line(capsys, *ask) == "No space left on device: free some space, then run the same command again"


def test_an_export_to_a_full_disk_leaves_nothing_behind(checkpoint, tmp_path, monkeypatch, capsys):
    def full(tensors, path):
        path.write_bytes(b"the beginning")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    message = error_line(capsys, "export", "--ckpt", checkpoint, "--out", tmp_path)
    assert message.startswith(f"{tmp_path}/model.safetensors cannot be written: ") and "No space left" in message
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_draw_nothing(checkpoint, tmp_path, capsys):
    content = load(checkpoint)
    content["state_dict"]["model.boi"][0] = float("nan")
    save(content, tmp_path / "last.ckpt")
    ask = ["--ckpt", tmp_path, "--allow-module", "tiny", "--prompt", "a", "--out", tmp_path / "out"]
    assert "last.ckpt: model.boi holds NaN or infinity" in error_line(capsys, "generate", *ask)
    assert "model.boi holds NaN" in error_line(capsys, "export", "--ckpt", tmp_path, "--out", tmp_path / "model")


def test_checkpoints_of_an_autoencoder_draw_nothing(tmp_path, capsys):
    module, content = AutoencoderModule(SmallKL(image_size=8, channels=8), AdamW()), {}
    content["state_dict"] = module.state_dict()
    module.on_save_checkpoint(content)
    save(content, tmp_path / "last.ckpt")
    ask = ["generate", "--ckpt", tmp_path / "last.ckpt", "--prompt", "a", "--out", tmp_path / "out"]
    assert "holds unifluid.modules.autoencoder.AutoencoderModule, which neither draws nor writes" in error_line(
        capsys, *ask
    )


def test_bad_lines_bad_checkpoints_and_bad_folders_are_named(checkpoint, pictures, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    ask = ["generate", "--allow-module", "tiny", "--out", tmp_path / "out"]
    assert "rows.jsonl:2 is not an object with prompt" in error_line(
        capsys, *ask, "--ckpt", checkpoint, "--prompts", tmp_path / "rows.jsonl"
    )
    (tmp_path / "numbers.jsonl").write_text('{"prompt": 5}\n')
    assert "numbers.jsonl:1 is not an object with prompt (prompt is no text)" in error_line(
        capsys, *ask, "--ckpt", checkpoint, "--prompts", tmp_path / "numbers.jsonl"
    )
    assert "rows.jsonl: damaged or not a checkpoint" in error_line(
        capsys, *ask, "--ckpt", tmp_path / "rows.jsonl", "--prompt", "a"
    )
    assert "tiny.Letters is outside the trusted packages" in error_line(
        capsys, "generate", "--ckpt", checkpoint, "--prompt", "a", "--out", tmp_path / "out"
    )
    assert "holds raw weights only" in error_line(
        capsys, *ask, "--ckpt", checkpoint, "--prompt", "a", "--weights", "ema"
    )
    (tmp_path / "file").touch()
    in_the_way = ["--ckpt", checkpoint, "--prompt", "a", "--out", tmp_path / "file"]
    assert f"{tmp_path / 'file'}: File exists" in error_line(capsys, "generate", *in_the_way)
    beams = ["--image", pictures[0], "--beams", "2", "--temperature", "1"]
    assert "does not draw" in error_line(capsys, "caption", "--ckpt", checkpoint, "--allow-module", "tiny", *beams)
