"""Pixels: exact, and in MAR's channel order."""

from __future__ import annotations

import pytest
import torch

from unifluid.tokenizers import Pixels
from unifluid.tokenizers.patching import patchify, unpatchify


def test_pixels_come_back_exactly():
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    tokenizer = Pixels(32, 4)
    tokens = tokenizer.tokens(tokenizer.encode(image), torch.randn(2, 64, 48))
    assert tokens.shape == (2, tokenizer.num_tokens, tokenizer.token_dim) == (2, 64, 48)
    assert torch.equal(tokenizer.decode(tokens), image)


def test_tokens_are_row_major_with_channels_ordered_c_p_q():
    """Written out by hand: token (i, j), channel (c, p, q) is pixel (c, i·patch + p, j·patch + q)."""
    c, h, w, patch = 2, 2, 3, 2
    x = torch.arange(c * h * patch * w * patch).view(1, c, h * patch, w * patch)
    tokens = patchify(x, patch)
    assert torch.equal(unpatchify(tokens, patch, (h, w)), x)
    for i in range(h):
        for j in range(w):
            for channel in range(c):
                for p in range(patch):
                    for q in range(patch):
                        expected = x[0, channel, i * patch + p, j * patch + q]
                        assert tokens[0, i * w + j, channel * patch**2 + p * patch + q] == expected


def test_a_patch_must_divide_the_image():
    with pytest.raises(ValueError, match="image_size 32 is not a multiple of the 5 pixels"):
        Pixels(32, 5)
