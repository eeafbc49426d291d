"""reconstruct: the tokenizer of a class, a config or a checkpoint, and figures that can be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from cli.runs import TINY, error_line
from PIL import Image
from toy import make_module

from unifluid.cli.main import main
from unifluid.modules.autoencoder import AutoencoderModule
from unifluid.modules.contrastive import ContrastiveModule
from unifluid.optimization import AdamW
from unifluid.storage import save
from unifluid.tokenizers import SmallKL

KL = {"image_size": 16, "channels": 16, "encoder_depth": 1, "decoder_depth": 1}
PIXELS = ["--tokenizer", "unifluid.tokenizers.Pixels", "--tokenizer.image_size", "16"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Smooth ones, of the tokenizers' size: nothing is resized."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(3):
        y, x = np.mgrid[:16, :16]
        rgb = np.stack([x * 8 + 40 * i, y * 8, 120 + 0 * x], axis=-1)
        Image.fromarray(rgb.astype(np.uint8)).save(folder / f"{i}.png")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[SmallKL, Path]:
    """A tokenizer with weights of its own, and its module's checkpoint."""
    torch.manual_seed(3)
    module = AutoencoderModule(SmallKL(**KL), AdamW())
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    save(content, path)
    return module.tokenizer.eval(), path


def reconstruct(*flags) -> int:
    return main(["reconstruct", *map(str, flags)])


def by_hand(tokenizer: SmallKL, folder: Path) -> list[float]:
    found = []
    for i in range(3):
        image = torch.from_numpy(np.array(Image.open(folder / f"{i}.png"))).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            again = tokenizer.decode(tokenizer.tokens(tokenizer.encode(image)))
        error = (again.double() - image.double()).square().mean() / 4  # on a range of 1
        found.append(-10 * error.log10().item())
    return found


def test_a_checkpoints_tokenizer_is_reported_per_picture_and_on_average(trained, pictures, tmp_path, capsys):
    tokenizer, path = trained
    assert reconstruct("--ckpt", path, "--image", pictures, "--batch-size", 2, "--out", tmp_path) == 0
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    expected = by_hand(tokenizer, pictures)
    assert [r["psnr"] for r in records] == pytest.approx(expected, abs=2e-3)
    assert [Path(r["image"]).name for r in records] == ["0.png", "1.png", "2.png"]
    *lines, mean, where = capsys.readouterr().out.splitlines()
    assert lines == [f"{r['image']}: {r['psnr']:.2f} dB" for r in records]
    assert mean.startswith(f"mean {sum(expected) / 3:.2f} dB over 3 pictures of 16×16 px in 4 tokens of 16; ")
    assert str(tmp_path) in where
    pair = np.asarray(Image.open(tmp_path / "00001.png"))
    assert pair.shape == (16, 32, 3)
    assert np.array_equal(pair[:, :16], np.asarray(Image.open(pictures / "1.png")))
    assert not np.array_equal(pair[:, 16:], pair[:, :16])


def test_class_config_and_checkpoint_name_the_same_tokenizer(trained, pictures, tmp_path, capsys):
    tokenizer, path = trained
    assert reconstruct("--ckpt", path, "--image", pictures) == 0
    expected = capsys.readouterr().out
    flags = [f"--tokenizer.{name}={value}" for name, value in {**KL, "weights": path}.items()]
    assert reconstruct("--tokenizer", "unifluid.tokenizers.SmallKL", *flags, "--image", pictures) == 0
    assert capsys.readouterr().out == expected
    part = {"class_path": "unifluid.tokenizers.SmallKL", "init_args": KL}
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"image_tokenizer": part}}}))
    flag = f"--model.init_args.image_tokenizer.init_args.weights={path}"
    files = ["--config", TINY, "--config", tmp_path / "overlay.yaml"]
    assert reconstruct(*files, "--allow-module", "tiny", flag, "--image", pictures) == 0
    assert capsys.readouterr().out == expected


def test_the_tokenizer_of_a_whole_model_is_found_in_its_checkpoint(pictures, tmp_path, capsys):
    module = make_module()
    module.configure_model()
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    save(content, tmp_path / "last.ckpt")
    assert reconstruct("--ckpt", tmp_path / "last.ckpt", "--allow-module", "tiny", "--image", pictures) == 0
    assert "over 3 pictures of 6×6 px in 9 tokens of 12" in capsys.readouterr().out


def test_a_run_that_starts_from_other_weights_is_seen_with_its_tokenizer(trained, pictures, tmp_path, capsys):
    tokenizer, path = trained
    assert reconstruct("--ckpt", path, "--image", pictures) == 0
    expected = capsys.readouterr().out
    module = make_module(image_tokenizer=tokenizer)
    module.configure_model()
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    save(content, tmp_path / "last.ckpt")
    part = {"class_path": "unifluid.tokenizers.SmallKL", "init_args": KL}
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"image_tokenizer": part}}}))
    flags = ["--config", TINY, "--config", tmp_path / "overlay.yaml", "--allow-module", "tiny", "--image", pictures]
    assert reconstruct(*flags, f"--model.init_args.init_from={tmp_path / 'last.ckpt'}") == 0
    assert capsys.readouterr().out == expected
    (tmp_path / "config.json").write_text('{"model_type": "paligemma"}')  # which has no image tokenizer
    assert reconstruct(*flags, f"--model.init_args.init_from={tmp_path}") == 0


def test_what_has_no_image_tokenizer_is_named(pictures, tmp_path, capsys):
    module = ContrastiveModule(tiny.Patches(), AdamW())
    content = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    save(content, tmp_path / "last.ckpt")
    shown = error_line(capsys, "reconstruct", "--ckpt", tmp_path / "last.ckpt", "--image", pictures)
    assert f"{tmp_path / 'last.ckpt'}: unifluid.modules.contrastive.ContrastiveModule has no image tokenizer" in shown
    shown = error_line(capsys, "reconstruct", *PIXELS, "--image", pictures, "--device", "moon")
    assert "device 'moon'" in shown


def psnrs(capsys) -> list[float]:
    return [float(line.split()[-2]) for line in capsys.readouterr().out.splitlines()[:-1]]


def test_errors_on_tokens_and_draws_are_a_function_of_the_seed(trained, pictures, capsys):
    flags = ["--image", pictures, "--noise", 0.1]
    assert reconstruct(*PIXELS, *flags) == 0
    exact = psnrs(capsys)
    spread = 10 / np.log(10) * np.sqrt(2 / (3 * 16 * 16))  # of a PSNR from that many errors
    assert exact == pytest.approx([10 * np.log10(4 / 0.1**2)] * 3, abs=4 * spread)  # an error of .1 on a range of 2
    assert reconstruct(*PIXELS, *flags, "--batch-size", 1) == 0
    assert psnrs(capsys) == exact
    assert reconstruct(*PIXELS, *flags, "--seed", 1) == 0
    assert psnrs(capsys) != exact
    found = {}
    for draw in ("", "--sample"):
        assert reconstruct("--ckpt", trained[1], "--image", pictures, *draw.split()) == 0
        found[draw] = psnrs(capsys)
    assert all(drawn < mode for mode, drawn in zip(found[""], found["--sample"], strict=True))


def test_help_has_examples(capsys):
    assert main(["reconstruct", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "unifluid reconstruct --tokenizer unifluid.tokenizers.AutoencoderKL" in shown
    assert all(flag in shown for flag in ("--ckpt", "--config", "--image", "--noise"))


def test_mistakes_end_in_one_line(trained, pictures, tmp_path, capsys):
    image = ["--image", pictures]

    def line(*flags) -> str:
        return error_line(capsys, "reconstruct", *flags)

    assert "one of the arguments --ckpt --config --tokenizer is required" in line(*image)
    assert "--image: gone.png does not exist" in line(*PIXELS, "--image", "gone.png")
    assert "--noise is the size of errors, at least 0, got -1.0" in line(
        *PIXELS, "--image", "gone.png", "--noise", "-1"
    )
    assert "holds no pictures" in line(*PIXELS, "--image", tmp_path)
    assert "not an image: " in line(*PIXELS, "--image", __file__)
    assert "--tokenizer.patch 2 is not for a checkpoint" in line("--ckpt", trained[1], "--tokenizer.patch 2", *image)
    assert "gone.ckpt does not exist" in line(
        "--tokenizer", "unifluid.tokenizers.SmallKL", "--tokenizer.weights", "gone.ckpt", *image
    )
    assert "tokenizer.patch: expected int, got two" in line(*PIXELS, "--tokenizer.patch", "two", *image)
    assert "evil" in line("--tokenizer", "evil.Tokenizer", *image)
    assert "no-such.yaml" in line("--config", "no-such.yaml", *image)
