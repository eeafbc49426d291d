"""What every image encoder found in `unifluid.encoders` must hold."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil

import pytest
import torch

import unifluid.encoders
from unifluid.configs import build, describe
from unifluid.interfaces import ImageEncoder

SMALL = {"image_size": 16, "patch_size": 4, "width": 32, "depth": 1}
VIT = {"image_size": 16, "options": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}}
SWIN = {"depths": [1, 1], "embed_dim": 16, "num_heads": [2, 2], "window_size": 2}
ARGUMENTS = {  # tiny ones of each class
    "Patches": [SMALL, {**SMALL, "stem": "linear"}, {**SMALL, "depth": 0}],
    "SigLIP": [
        {"model": "vit_base_patch16_siglip_224", **VIT},
        {"model": "vit_base_patch16_siglip_224", "checkpointing": True, **VIT},
        {"model": "vit_base_patch16_clip_224", "activation": None, **VIT},  # has a class token and another range
    ],
    "TimmEncoder": [
        {"model": "efficientnet_lite0", "image_size": 64},  # convolutional, with batch norms
        {"model": "swin_tiny_patch4_window7_224", "image_size": 16, "options": SWIN},  # channels come last
        {"model": "vit_base_patch16_clip_224", **VIT},
    ],
}


def found() -> list[type[ImageEncoder]]:
    names = [m.name for m in pkgutil.iter_modules(unifluid.encoders.__path__, "unifluid.encoders.")]
    classes = [c for n in names for c in vars(importlib.import_module(n)).values() if inspect.isclass(c)]
    return list(dict.fromkeys(c for c in classes if issubclass(c, ImageEncoder) and not inspect.isabstract(c)))


CASES = [(c, arguments) for c in found() for arguments in ARGUMENTS.get(c.__name__, [])]


def test_every_image_encoder_is_covered():
    assert {c.__name__ for c in found()} == set(ARGUMENTS), "give tiny arguments of the new encoder in ARGUMENTS"


@pytest.fixture(params=CASES, ids=str)
def encoder(request) -> ImageEncoder:
    cls, arguments = request.param
    torch.manual_seed(0)
    return cls(**arguments).eval()


@pytest.fixture
def images(encoder) -> torch.Tensor:
    size = encoder.image_size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes_are_as_stated(encoder, images):
    assert encoder(images).shape == (3, encoder.num_tokens, encoder.width)


def test_an_image_gives_in_a_batch_what_it_gives_alone(encoder, images):
    exact, images = copy.deepcopy(encoder).double(), images.double()
    assert torch.allclose(exact(images)[1:2], exact(images[1:2]), atol=1e-10)


def test_no_images_are_no_problem(encoder, images):
    assert encoder(images[:0]).shape == (0, encoder.num_tokens, encoder.width)


def test_features_tell_where_things_are(encoder, images):
    """A pooled or position-blind encoder gives the same multiset of features for a picture rolled by one patch."""
    blank = torch.zeros_like(images[:1])
    left, right = blank.clone(), blank.clone()
    patch = encoder.image_size // 2
    left[..., :patch] = 1
    right[..., patch:] = 1
    sums = [encoder(x).sum(1) for x in (left, right)]
    assert not torch.allclose(*sums, atol=1e-3)


def test_features_are_of_a_size_the_projection_can_use(encoder, images):
    features = encoder(images)
    assert features.isfinite().all()
    assert 0.3 < features.std() < 3


def test_everything_trains_in_mixed_precision(encoder, images):
    encoder.train()
    with torch.autocast("cpu", torch.bfloat16):
        encoder(images).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters() if p.requires_grad)


def test_it_is_rebuilt_from_its_config_and_state(encoder, images):
    twin = build(describe(encoder)).eval()
    twin.load_state_dict(encoder.state_dict())
    assert torch.equal(twin(images), encoder(images))
