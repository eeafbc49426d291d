"""Image tokenizer without weights: the pixels themselves, in patches."""

from __future__ import annotations

from torch import Tensor

from unifluid.interfaces import ImageTokenizer
from unifluid.tokenizers.patching import patchify, square_grid, unpatchify


class Pixels(ImageTokenizer):
    """p×p patches of the image in [-1, 1]; tokens of 3·p² channels, exactly invertible.

    Args:
        image_size: H = W in pixels, a multiple of `patch`.
        patch: side of a patch in pixels.
    """

    def __init__(self, image_size: int = 32, patch: int = 4):
        super().__init__()
        self.image_size, self.patch = image_size, patch
        self.grid = square_grid(image_size, patch)
        self.token_dim = 3 * patch**2

    def encode(self, image: Tensor) -> Tensor:
        return image

    def tokens(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """The patches; pixels have no spread, so `noise` changes nothing."""
        return patchify(moments, self.patch)

    def decode(self, tokens: Tensor) -> Tensor:
        return unpatchify(tokens, self.patch, self.grid).clamp(-1, 1)
