"""SigLIP: transformers' features from everyone's files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unifluid.encoders import SigLIP

MODEL = "vit_base_patch16_siglip_224"
OPTIONS = {"patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 1.5}
CONFIG = {  # the same, in transformers' words
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}


def randomised(model: nn.Module) -> nn.Module:
    """Nothing may go unseen for being zero or one."""
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def library():
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return randomised(SiglipVisionModel(SiglipVisionConfig(**CONFIG)))


@pytest.fixture(scope="module")
def written(library, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    library.save_pretrained(folder)
    return folder


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def loaded(weights: Path | str, **arguments) -> SigLIP:
    encoder = SigLIP(MODEL, **{"image_size": 16, "weights": str(weights), "options": OPTIONS, **arguments}).eval()
    encoder.load_pretrained()
    return encoder


# -- parity ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_features_are_those_of_transformers(written, library, image):
    features, theirs = loaded(written)(image), library(image).last_hidden_state
    assert theirs.std() > 0.1
    assert (features - theirs).abs().max() <= 1e-4


@torch.no_grad()
def test_a_file_with_the_text_model_beside_it_loads(tmp_path, image):
    from transformers import SiglipConfig, SiglipModel

    text = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = SiglipConfig(text_config={**text, "num_attention_heads": 2}, vision_config=CONFIG)
    both = randomised(SiglipModel(config))
    both.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("text_model.") for name in names)
    theirs = both.vision_model(image).last_hidden_state
    assert (loaded(tmp_path)(image) - theirs).abs().max() <= 1e-4


@torch.no_grad()
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["", "visual.trunk."], ids=["timm", "open_clip"])
def test_files_of_timm_and_open_clip_load_without_their_pooling(tmp_path, image, prefix, suffix):
    whole = randomised(timm.create_model(MODEL, img_size=16, act_layer="gelu_tanh", **OPTIONS))
    tensors = {f"{prefix}{name}": tensor for name, tensor in whole.state_dict().items()}
    assert f"{prefix}attn_pool.latent" in tensors
    path = tmp_path / f"siglip.{suffix}"
    save_file(tensors, path) if suffix == "safetensors" else torch.save(tensors, path)
    assert torch.equal(loaded(path)(image), whole.forward_features(image))


@torch.no_grad()
def test_other_vision_transformers_get_their_own_range_and_lose_their_class_token(image):
    options = {**OPTIONS, "depth": 1}
    encoder = SigLIP("vit_base_patch16_clip_224", image_size=16, activation=None, options=options).eval()
    mean, std = torch.tensor(encoder.mean)[:, None, None], torch.tensor(encoder.std)[:, None, None]
    assert mean[0] == 0.48145466
    expected = encoder.vit.forward_features(((image + 1) / 2 - mean) / std)
    assert expected.shape[1] == 17
    assert torch.allclose(encoder(image), expected[:, 1:], atol=1e-5)


def test_sizes_of_the_published_models():
    sizes = {
        ("vit_so400m_patch14_siglip_224", None): (224, 256),
        ("vit_so400m_patch14_siglip_224", 448): (448, 1024),
        ("vit_so400m_patch14_siglip_384", None): (384, 729),
        ("vit_so400m_patch16_siglip_384.v2_webli", None): (384, 576),
    }
    with torch.device("meta"):
        whole = SigLIP()
        assert (whole.width, len(whole.vit.blocks), sum(p.numel() for p in whole.parameters())) == (
            1152,
            27,
            412_442_352,
        )
        for (name, size), expected in sizes.items():
            encoder = SigLIP(name, image_size=size, options={"depth": 1})
            assert (encoder.image_size, encoder.num_tokens) == expected
            assert encoder(torch.zeros(1, 3, encoder.image_size, encoder.image_size)).shape == (1, expected[1], 1152)


def test_position_embeddings_are_interpolated_to_a_larger_picture(written):
    small, large = loaded(written), loaded(written, image_size=32)
    assert large.num_tokens == 64
    expected = nn.functional.interpolate(
        small.vit.pos_embed.unflatten(1, (4, 4)).permute(0, 3, 1, 2), (8, 8), mode="bicubic", antialias=True
    )
    assert torch.allclose(large.vit.pos_embed, expected.flatten(2).mT, atol=1e-5)


# -- training -------------------------------------------------------------------------------------------------------


def test_trained_it_can_drop_paths(image):
    encoder = SigLIP(MODEL, image_size=16, options={**OPTIONS, "drop_path_rate": 0.9})
    assert encoder.training
    torch.manual_seed(0)
    assert not torch.equal(encoder(image), encoder(image))


def test_weights_are_read_by_load_pretrained_alone(written):
    fresh = SigLIP(MODEL, image_size=16, weights=str(written), options=OPTIONS)
    assert not torch.equal(fresh.vit.pos_embed, loaded(written).vit.pos_embed)


# -- mistakes -------------------------------------------------------------------------------------------------------


def mistake(*weights: Path | str, **arguments) -> str:
    with pytest.raises(ValueError) as caught:
        loaded(*weights, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_and_truncated_files_are_named(written, tmp_path):
    assert "gone.safetensors does not exist" in mistake(tmp_path / "gone.safetensors")
    assert f"{tmp_path / 'model.safetensors'} does not exist" in mistake(tmp_path)
    content = (written / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "model.safetensors: damaged or incomplete" in mistake(tmp_path)


def test_files_that_hold_code_are_refused(tmp_path):
    torch.save({"pos_embed": nn.Linear(1, 1)}, tmp_path / "evil.bin")
    assert "evil.bin: refused" in mistake(tmp_path / "evil.bin")


def test_weights_of_another_model_are_refused_by_name(written, tmp_path):
    assert re.search(
        r"model.safetensors does not fit this VisionTransformer: blocks.2.attn.proj.bias .* there, missing here",
        mistake(written, options={**OPTIONS, "depth": 2}),
    )
    assert re.search("does not fit.*and 8 more differ", mistake(written, options={**OPTIONS, "mlp_ratio": 2}))
    save_file({"model.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    assert "other.safetensors does not fit" in mistake(tmp_path / "other.safetensors")


def test_models_that_timm_cannot_build_are_named():
    for arguments, message in [
        ({"model": "vit_nothing"}, "Unknown model"),
        ({"model": "resnet18", "activation": None}, "ResNet, not a plain vision transformer"),
        ({"options": {"pretrained": True}}, "pretrained"),
        ({"options": {"height": 3}}, "height"),
        ({"image_size": 3, "options": OPTIONS}, "SigLIP.image_size 3 is less than a patch"),
    ]:
        with pytest.raises(ValueError, match=message):
            SigLIP(**arguments)
