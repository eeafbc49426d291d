"""Patches: places, options and mistakes."""

from __future__ import annotations

import pytest
import torch

from unifluid.encoders import Patches


def changed_at(stem: str, rows: slice, columns: slice) -> torch.Tensor:
    """How much each token of a picture changes with the pixels at (rows, columns), (16,)."""
    torch.manual_seed(0)
    encoder = Patches(32, 8, 32, depth=0, stem=stem).eval()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    changed = image.clone()
    changed[..., rows, columns] *= -1
    return (encoder(changed) - encoder(image)).norm(dim=-1)[0]


@pytest.mark.parametrize("stem", ["convolution", "linear"])
def test_tokens_are_row_major(stem):
    change = changed_at(stem, slice(0, 8), slice(24, 32)).view(4, 4)  # the top right corner
    down, across = ((change.sum(dim) * torch.arange(4)).sum() / change.sum() for dim in (1, 0))
    assert down < 1.5 < 2 < across


def test_the_convolutional_stem_sees_across_patches_and_the_linear_one_does_not():
    for stem, sees in (("convolution", True), ("linear", False)):
        change = changed_at(stem, slice(0, 8), slice(7, 8))  # the column of the first patch beside the second
        assert change[0] > 0.01 and (change[1] > 0.01) == sees


@pytest.mark.parametrize("patch_size", [2, 4, 8, 16])
def test_stride_of_the_stem_is_the_patch_size(patch_size):
    encoder = Patches(32, patch_size, 32, depth=0)
    assert encoder(torch.zeros(1, 3, 32, 32)).shape[1] == encoder.num_tokens == (32 // patch_size) ** 2


def test_the_default_gives_sixteen_tokens_of_a_32_pixel_picture():
    encoder = Patches()
    assert (encoder.image_size, encoder.num_tokens, encoder.width) == (32, 16, 192)
    assert not any(block.attn.fused_attn for block in encoder.vit.blocks)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"image_size": 30}, "image_size 30"),
        ({"width": 190}, "width 190"),
        ({"stem": "conv"}, "convolution or linear"),
        ({"patch_size": 6, "image_size": 36}, "power of two"),
    ],
)
def test_mistakes_are_one_clear_line(arguments, named):
    with pytest.raises(ValueError, match=named):
        Patches(**arguments)


@pytest.mark.parametrize("prefix", ["", "encoder.", "model.image_encoder."])
def test_weights_load_from_every_file_that_holds_them(tmp_path, prefix):
    trained = Patches(16, 8, 32, depth=1)
    torch.save({f"{prefix}{name}": t for name, t in trained.state_dict().items()}, tmp_path / "a.ckpt")
    encoder = Patches(16, 8, 32, depth=1, weights=str(tmp_path / "a.ckpt"))
    encoder.load_pretrained()
    assert all(torch.equal(t, trained.state_dict()[name]) for name, t in encoder.state_dict().items())
    with pytest.raises(ValueError, match=r"a\.ckpt does not fit this Patches: vit\.blocks\.1\.\S+ is missing there"):
        Patches(16, 8, 32, depth=2, weights=str(tmp_path / "a.ckpt")).load_pretrained()
    torch.save({"other": torch.ones(1)}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"b\.ckpt holds no weights of a Patches"):
        Patches(16, 8, 32, weights=str(tmp_path / "b.ckpt")).load_pretrained()
