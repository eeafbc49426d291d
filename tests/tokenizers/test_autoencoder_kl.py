"""AutoencoderKL: to the bit what diffusers does, from every kind of file its weights come in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unifluid.configs import build, describe
from unifluid.tokenizers import AutoencoderKL
from unifluid.tokenizers.autoencoder_kl import TENSORS

TINY = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 16,
}
SHIFTED = {**TINY, "scaling_factor": 1.5305, "shift_factor": 0.0609, "latent_channels": 6, "use_quant_conv": False}


def write(folder: Path, **config) -> Path:
    """A tiny autoencoder with random weights, written by diffusers."""
    from diffusers import AutoencoderKL as Library

    torch.manual_seed(0)
    model = Library(**{**TINY, **config})
    for name, p in model.named_parameters():  # diffusers starts norms at 1 and biases at 0: nothing may go unseen
        torch.nn.init.normal_(p, mean=float("norm" in name and name.endswith("weight")), std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("vae"))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def loaded(weights: Path, **arguments) -> AutoencoderKL:
    tokenizer = AutoencoderKL(**{"image_size": 16, "weights": str(weights), **arguments})
    tokenizer.load_pretrained()
    return tokenizer


def library(folder: Path):
    from diffusers import AutoencoderKL as Library

    return Library.from_pretrained(folder).eval()


# -- parity ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, SHIFTED], ids=["scale", "scale and shift"])
@torch.no_grad()
def test_encode_and_decode_equal_the_library(tmp_path, config, image):
    write(tmp_path, **config)
    ours, theirs = loaded(tmp_path, patch=1), library(tmp_path)
    moments = ours.encode(image)
    distribution = theirs.encode(image).latent_dist
    assert torch.equal(moments, distribution.parameters)
    shift, scale = theirs.config.shift_factor or 0, theirs.config.scaling_factor
    mode = (distribution.mode() - shift) * scale
    assert torch.equal(ours.tokens(moments), mode.flatten(2).mT)
    noise = torch.randn(2, ours.num_tokens, ours.token_dim)
    drawn = distribution.mean + distribution.std * noise.mT.unflatten(2, ours.grid)
    assert torch.equal(ours.tokens(moments, noise), ((drawn - shift) * scale).flatten(2).mT)
    decoded = theirs.decode(mode / scale + shift).sample.clamp(-1, 1)
    assert torch.equal(ours.decode(ours.tokens(moments)), decoded)


@torch.no_grad()
def test_channels_of_a_token_are_ordered_c_p_q(folder, image):
    tokenizer = loaded(folder)
    assert (tokenizer.grid, tokenizer.token_dim) == ((4, 4), 16)
    moments = tokenizer.encode(image)
    latents = moments[:, :4] * 0.18215
    tokens = tokenizer.tokens(moments)
    for row, column, c, p, q in [(0, 0, 0, 0, 0), (2, 3, 1, 0, 1), (3, 1, 3, 1, 0)]:
        token = tokens[:, row * 4 + column, c * 4 + p * 2 + q]
        assert torch.equal(token, latents[:, c, row * 2 + p, column * 2 + q])


def test_the_shapes_of_the_paper():
    with torch.device("meta"):
        tokenizer = AutoencoderKL()
        assert (tokenizer.image_size, tokenizer.num_tokens, tokenizer.token_dim) == (256, 256, 16)
        assert tokenizer.vae.encode(torch.zeros(1, 3, 256, 256)).latent_dist.parameters.shape == (1, 8, 32, 32)
        assert sum(p.numel() for p in tokenizer.parameters()) == 83_653_863
        assert AutoencoderKL(512, patch=4).num_tokens == 256
        assert AutoencoderKL(512, patch=1).token_dim == 4


def test_it_is_frozen_and_in_evaluation_mode(folder):
    tokenizer = loaded(folder).train()
    assert not tokenizer.training and not tokenizer.vae.training
    assert not any(p.requires_grad for p in tokenizer.parameters())


# -- where weights come from ----------------------------------------------------------------------------------------


def same(tokenizer: AutoencoderKL, folder: Path) -> bool:
    theirs = library(folder).state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in tokenizer.vae.state_dict().items())


def old_attention(tensors):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    return {re.sub("|".join(names), lambda m: names[m[0]], name): t for name, t in tensors.items()}


def original(tensors, blocks: int = 2):
    """diffusers' names and shapes -> those of the original code."""
    renamed = {}
    for name, tensor in tensors.items():
        name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{blocks - 1 - int(m[1])}", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        for new, old in {
            "down_blocks": "down",
            "resnets": "block",
            "downsamplers.0": "downsample",
            "upsamplers.0": "upsample",
            "conv_norm_out": "norm_out",
            "conv_shortcut": "nin_shortcut",
            "mid_block.attentions.0": "mid.attn_1",
            "group_norm": "norm",
            "to_q": "q",
            "to_k": "k",
            "to_v": "v",
            "to_out.0": "proj_out",
        }.items():
            name = name.replace(new, old)
        if re.search(r"attn_1\.\w+\.weight", name) and "norm" not in name:
            tensor = tensor[:, :, None, None].clone()
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("layout", ["diffusers", "old attention", "original", "whole model", "half precision"])
def test_a_single_file_in_any_layout_loads(folder, tmp_path, layout):
    tensors = load_file(folder / TENSORS)
    if layout == "old attention":
        tensors = old_attention(tensors)
    if layout in ("original", "whole model"):
        tensors = original(tensors)
    if layout == "whole model":
        tensors = {f"first_stage_model.{n}": t for n, t in tensors.items()} | {"model.x": torch.ones(1)}
    if layout == "half precision":
        tensors = {n: t.half() for n, t in tensors.items()}
    save_file(tensors, tmp_path / "vae.safetensors")
    tokenizer = loaded(tmp_path / "vae.safetensors", config=TINY)
    if layout == "half precision":
        assert all(p.dtype == torch.float32 for p in tokenizer.parameters())
        assert all(torch.equal(t.half(), tensors[n]) for n, t in tokenizer.vae.state_dict().items())
    else:
        assert same(tokenizer, folder)


def test_a_pipelines_folder_and_a_file_beside_its_config_load(folder, tmp_path):
    write(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    assert same(loaded(tmp_path), folder)
    assert same(loaded(folder / TENSORS), folder)


@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_a_hub_name_is_the_folder_of_its_download(folder, tmp_path, monkeypatch, subfolder):
    write(tmp_path / subfolder)
    asked = []

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, *allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    tokenizer = AutoencoderKL(image_size=16, weights="somebody/sd-vae")
    assert asked == [("somebody/sd-vae", "config.json", "vae/config.json")]
    tokenizer.load_pretrained()
    assert asked[1:] == [("somebody/sd-vae", TENSORS, f"vae/{TENSORS}")]
    assert same(tokenizer, folder)


def test_weights_are_read_by_load_pretrained_alone(folder, image):
    fresh = AutoencoderKL(image_size=16, weights=str(folder))
    assert not same(fresh, folder)


def test_a_checkpoint_needs_no_folder(tmp_path, image):
    tokenizer = loaded(write(tmp_path / "vae"))
    config = json.loads(json.dumps(describe(tokenizer)))
    (tmp_path / "vae").rename(tmp_path / "gone")
    twin = build(config)
    twin.load_state_dict(tokenizer.state_dict())
    assert torch.equal(twin.encode(image), tokenizer.encode(image))
    assert describe(twin) == describe(tokenizer)  # a run that goes on compares them


# -- mistakes -------------------------------------------------------------------------------------------------------


def mistake(weights: Path | str, **arguments) -> str:
    with pytest.raises(ValueError) as caught:
        loaded(weights, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_weights_are_named(folder, tmp_path):
    assert "gone.safetensors does not exist" in mistake(tmp_path / "gone.safetensors")
    assert f"{tmp_path} holds no config.json" in mistake(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert f"{tmp_path / TENSORS} does not exist" in mistake(tmp_path)


def test_a_hub_that_is_out_of_reach_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "weights nobody/nothing is no file or folder here, and as a hub name it is out" in mistake("nobody/nothing")


def test_another_kind_of_model_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert "config.json describes UNet2DConditionModel" in mistake(tmp_path)
    (tmp_path / "config.json").write_text("[")
    assert "config.json: not valid JSON" in mistake(tmp_path)
    assert "latents_mean" in mistake(folder, config={**TINY, "latents_mean": [0.0] * 4})
    assert "config of AutoencoderKL" in mistake(folder, config={**TINY, "down_block_types": ["Nothing"] * 2})


def test_weights_of_another_shape_are_refused_by_name(folder, tmp_path):
    wider = {**TINY, "block_out_channels": [8, 32]}
    line = mistake(folder, config=wider)
    assert re.search(rf"{TENSORS} does not fit this AutoencoderKL: decoder.conv_in.bias is \(16,\) there", line)
    tensors = load_file(folder / TENSORS)
    del tensors["quant_conv.bias"]
    save_file(tensors, tmp_path / "part.safetensors")
    assert "quant_conv.bias is missing there, (8,) here" in mistake(tmp_path / "part.safetensors", config=TINY)


def test_truncated_and_foreign_files_are_refused(folder, tmp_path):
    for name in ("config.json", TENSORS):
        content = (folder / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2] if name == TENSORS else content)
    assert re.search(f"{TENSORS}: damaged or incomplete", mistake(tmp_path))


def test_image_sizes_that_do_not_divide_are_refused(folder):
    assert "image_size 18 is not a multiple of the 4 pixels" in mistake(folder, image_size=18)
