"""What every image tokenizer found in `unifluid.tokenizers` must hold."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
import torch

import unifluid.tokenizers
from unifluid.configs import build, describe
from unifluid.interfaces import ImageTokenizer, TrainableImageTokenizer

SMALL_KL = {"channels": 16, "encoder_depth": 1, "decoder_depth": 1}
TINY_KL = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
}
ARGUMENTS = {  # tiny ones of each class
    "AutoencoderKL": [
        {"image_size": 16, "config": TINY_KL},
        {"image_size": 16, "patch": 1, "config": {**TINY_KL, "latent_channels": 6, "shift_factor": 0.1}},
    ],
    "Pixels": [{"image_size": 16, "patch": 4}, {"image_size": 16, "patch": 8}],
    "SmallKL": [{"image_size": 16, **SMALL_KL}, {"image_size": 32, "factor": 8, "latent_channels": 3, **SMALL_KL}],
}


def found() -> list[type[ImageTokenizer]]:
    names = [m.name for m in pkgutil.iter_modules(unifluid.tokenizers.__path__, "unifluid.tokenizers.")]
    classes = [c for n in names for c in vars(importlib.import_module(n)).values() if inspect.isclass(c)]
    return list(dict.fromkeys(c for c in classes if issubclass(c, ImageTokenizer) and not inspect.isabstract(c)))


CASES = [(c, arguments) for c in found() for arguments in ARGUMENTS.get(c.__name__, [])]


def test_every_image_tokenizer_is_covered():
    assert {c.__name__ for c in found()} == set(ARGUMENTS), "give tiny arguments of the new tokenizer in ARGUMENTS"


@pytest.fixture(params=CASES, ids=str)
def tokenizer(request) -> ImageTokenizer:
    cls, arguments = request.param
    torch.manual_seed(0)
    return cls(**arguments).eval()


@pytest.fixture
def images(tokenizer) -> torch.Tensor:
    size = tokenizer.image_size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def draw(tokenizer: ImageTokenizer, images: torch.Tensor, seed: int = 2) -> torch.Tensor:
    shape = len(images), tokenizer.num_tokens, tokenizer.token_dim
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_shapes_are_as_stated(tokenizer, images):
    tokens = tokenizer.tokens(tokenizer.encode(images))
    assert tokens.shape == (3, tokenizer.grid[0] * tokenizer.grid[1], tokenizer.token_dim)
    assert tokenizer.decode(tokens).shape == images.shape
    assert tokens.dtype == torch.float32


def test_decoded_images_stay_within_range(tokenizer, images):
    decoded = tokenizer.decode(100 * draw(tokenizer, images))
    assert decoded.abs().max() == 1


def test_mode_is_deterministic_and_noise_is_the_only_randomness(tokenizer, images):
    moments = tokenizer.encode(images)
    assert torch.equal(tokenizer.tokens(moments), tokenizer.tokens(tokenizer.encode(images)))
    noise = draw(tokenizer, images)
    assert torch.equal(tokenizer.tokens(moments, noise), tokenizer.tokens(moments, noise))
    assert torch.allclose(tokenizer.tokens(moments, torch.zeros_like(noise)), tokenizer.tokens(moments), atol=1e-6)


def test_noise_of_a_token_moves_that_token_alone(tokenizer, images):
    """Noise is laid out as the tokens are: a sample is a function of (image, token, channel)."""
    moments = tokenizer.encode(images)
    noise = torch.zeros_like(draw(tokenizer, images))
    noise[1, 2] = 1
    moved = (tokenizer.tokens(moments, noise) != tokenizer.tokens(moments)).any(-1).nonzero().tolist()
    assert moved in ([], [[1, 2]])


def test_an_image_gives_in_a_batch_what_it_gives_alone(tokenizer, images):
    moments = tokenizer.encode(images)
    assert torch.allclose(tokenizer.encode(images[1:2]), moments[1:2], atol=1e-5)
    tokens = tokenizer.tokens(moments)
    assert torch.allclose(tokenizer.decode(tokens)[1:2], tokenizer.decode(tokens[1:2]), atol=1e-5)


def test_precision_around_it_changes_nothing(tokenizer, images):
    with torch.autocast("cpu", torch.bfloat16):
        moments = tokenizer.encode(images)
        tokens = tokenizer.tokens(moments)
        decoded = tokenizer.decode(tokens)
    assert torch.equal(moments, tokenizer.encode(images))
    assert torch.equal(decoded, tokenizer.decode(tokens))


def test_using_it_never_changes_it(tokenizer, images):
    """Also in training mode, where running statistics would move."""
    before = {name: t.clone() for name, t in tokenizer.state_dict().items()}
    tokenizer.train()
    tokens = tokenizer.tokens(tokenizer.encode(images), draw(tokenizer, images))
    assert torch.equal(tokenizer.decode(tokens), tokenizer.eval().decode(tokens))
    assert all(torch.equal(t, before[name]) for name, t in tokenizer.state_dict().items())


def test_no_images_are_no_problem(tokenizer, images):
    """A batch of captions alone has nothing to draw."""
    tokens = tokenizer.tokens(tokenizer.encode(images[:0]), draw(tokenizer, images[:0]))
    assert tokens.shape == (0, tokenizer.num_tokens, tokenizer.token_dim)
    assert tokenizer.decode(tokens).shape == (0, *images.shape[1:])


def test_it_is_rebuilt_from_its_config_and_state(tokenizer, images):
    twin = build(describe(tokenizer)).eval()
    twin.load_state_dict(tokenizer.state_dict())
    assert torch.equal(twin.encode(images), tokenizer.encode(images))


def test_a_trainable_tokenizer_reconstructs_what_its_tokens_decode_to(tokenizer, images):
    if not isinstance(tokenizer, TrainableImageTokenizer):
        pytest.skip("has nothing to train")
    noise = draw(tokenizer, images)
    errors = 0.1 * noise.flip(0)
    reconstruction, moments = tokenizer(images, noise, errors)
    assert torch.allclose(moments, tokenizer.encode(images), atol=1e-5)
    decoded = tokenizer.decode(tokenizer.tokens(moments, noise) + errors)
    assert torch.allclose(reconstruction.clamp(-1, 1), decoded, atol=1e-4)
    reconstruction.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in tokenizer.parameters())
