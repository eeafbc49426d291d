"""SmallKL: what its latents mean, its statistics, and the files it reads weights from."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from unifluid.tokenizers import SmallKL

SMALL = {"image_size": 16, "channels": 16, "encoder_depth": 1, "decoder_depth": 1}


def small(seed: int = 0, **changes) -> SmallKL:
    torch.manual_seed(seed)
    return SmallKL(**{**SMALL, **changes})


def test_the_default_makes_sixteen_tokens_of_sixteen_channels():
    tokenizer = SmallKL()
    moments = tokenizer.encode(torch.zeros(1, 3, 32, 32))
    assert moments.shape == (1, 8, 8, 8)
    assert tokenizer.tokens(moments).shape == (1, 16, 16)


def test_a_sample_is_the_posterior_normalised():
    """Every latent by hand: (mean + exp(log σ² / 2) · noise − running mean) / running deviation, at (c, p, q)."""
    tokenizer = small()
    tokenizer.latent_mean.copy_(torch.randn(4, 1, 1))
    tokenizer.latent_variance.copy_(torch.rand(4, 1, 1) + 0.5)
    moments, noise = torch.randn(2, 8, 4, 4), torch.randn(2, 4, 16)
    tokens = tokenizer.tokens(moments, noise)
    for token, channel in ((0, 0), (1, 5), (3, 15)):
        c, p, q = channel // 4, channel % 4 // 2, channel % 2
        y, x = token // 2 * 2 + p, token % 2 * 2 + q
        latent = moments[:, c, y, x] + (moments[:, 4 + c, y, x] / 2).exp() * noise[:, token, channel]
        expected = (latent - tokenizer.latent_mean[c]) / tokenizer.latent_variance[c].sqrt()
        assert torch.allclose(tokens[:, token, channel], expected, atol=1e-5)


def test_a_token_depends_on_its_own_pixels_alone_and_a_pixel_on_every_token():
    tokenizer = small()
    for p in tokenizer.parameters():
        torch.nn.init.normal_(p, std=0.2)  # blocks start as the identity
    image = torch.rand(1, 3, 16, 16)
    before = tokenizer.tokens(tokenizer.encode(image))
    image[:, :, 8:, :8] = 0  # token 2 of 2 × 2
    after = tokenizer.tokens(tokenizer.encode(image))
    assert [torch.equal(before[:, n], after[:, n]) for n in range(4)] == [True, True, False, True]
    assert not torch.equal(tokenizer.decode(before)[..., :8], tokenizer.decode(after)[..., :8])


def test_training_makes_tokens_of_unit_size(monkeypatch):
    monkeypatch.setattr("unifluid.tokenizers.small_kl.MOMENTUM", 0.1)
    tokenizer = small().train()
    images = torch.rand(64, 3, 16, 16) * 2 - 1
    noise = torch.randn(64, 4, 16)
    for _ in range(60):  # six time constants of the running statistics
        with torch.no_grad():
            tokenizer(images, noise, torch.zeros_like(noise))
    latents = tokenizer.tokens(tokenizer.encode(images), noise).unflatten(-1, (4, 4))
    assert torch.allclose(latents.mean((0, 1, 3)), torch.zeros(4), atol=0.05)
    assert torch.allclose(latents.std((0, 1, 3)), torch.ones(4), atol=0.05)


def test_statistics_stand_still_in_evaluation():
    tokenizer = small().eval()
    before = tokenizer.latent_mean.clone()
    tokenizer(torch.rand(4, 3, 16, 16), torch.randn(4, 4, 16), torch.zeros(4, 4, 16))
    assert torch.equal(tokenizer.latent_mean, before)


def written(tmp_path, kind: str, tensors: dict) -> str:
    path = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    else:
        torch.save({"state_dict": tensors, "config": {}}, path)
    return str(path)


@pytest.mark.parametrize("kind", ["ckpt", "safetensors"])
@pytest.mark.parametrize("prefix", ["", "tokenizer.", "model.image_tokenizer."])
def test_pretrained_weights_load_from_every_file_that_holds_them(tmp_path, kind, prefix):
    trained = small(1)
    trained.latent_mean.fill_(0.5)
    tensors = {f"{prefix}{name}": t for name, t in trained.state_dict().items()} | {"other.weight": torch.ones(1)}
    if prefix == "":
        del tensors["other.weight"]
    loaded = small(2, weights=written(tmp_path, kind, tensors))
    assert not torch.equal(loaded.encoder[1].weight, trained.encoder[1].weight)  # building reads nothing
    loaded.load_pretrained()
    assert all(torch.equal(t, trained.state_dict()[name]) for name, t in loaded.state_dict().items())


def test_averaged_weights_of_a_checkpoint_are_preferred(tmp_path):
    trained, averaged = small(1).state_dict(), small(2).state_dict()
    path = tmp_path / "averaged.ckpt"
    tensors = {f"tokenizer.{name}": t for name, t in trained.items()}
    ema = {f"tokenizer.{name}": t for name, t in averaged.items() if not name.startswith("latent_")}
    torch.save({"state_dict": tensors, "ema": ema}, path)
    loaded = small(3, weights=str(path))
    loaded.load_pretrained()
    assert torch.equal(loaded.encoder[1].weight, averaged["encoder.1.weight"])


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = written(tmp_path, "ckpt", small(channels=32).state_dict())
    with pytest.raises(ValueError, match=r"weights.ckpt does not fit.*decoder.0.bias is \(32,\) there, \(16,\) here"):
        small(weights=path).load_pretrained()
    path = written(tmp_path, "safetensors", small(encoder_depth=2).state_dict())
    with pytest.raises(ValueError, match=r"encoder.3.bias is missing there, \(8,\) here"):
        small(weights=path).load_pretrained()


def test_files_of_another_kind_are_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match="gone.ckpt does not exist: it is the checkpoint of a run"):
        small(weights=str(tmp_path / "gone.ckpt")).load_pretrained()
    with pytest.raises(ValueError, match="holds no weights of a SmallKL"):
        small(weights=written(tmp_path, "ckpt", {"backbone.weight": torch.ones(1)})).load_pretrained()
    for name, message in {"page.ckpt": "refused, not plain tensors", "page.safetensors": "damaged"}.items():
        (tmp_path / name).write_text("<html>")
        with pytest.raises(ValueError, match=f"{name}: {message}") as caught:
            small(weights=str(tmp_path / name)).load_pretrained()
        assert "\n" not in str(caught.value)


def test_a_checkpoint_that_holds_code_is_refused_and_never_runs_it(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"state_dict": Payload()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="evil.ckpt"):
        small(weights=str(tmp_path / "evil.ckpt")).load_pretrained()
    assert not (tmp_path / "executed").exists()


def test_mistakes_are_one_clear_line():
    with pytest.raises(ValueError, match="image_size 20 is not a multiple of the 8 pixels"):
        SmallKL(image_size=20)
    with pytest.raises(ValueError, match="factor 3"):
        SmallKL(image_size=24, factor=3)
