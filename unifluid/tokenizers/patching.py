"""Feature maps <-> patches, the order every image tokenizer uses: tokens row-major, channels (c, p, q) as in MAR."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, h·p, w·p) -> (B, h·w, C·p·p)."""
    return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """(B, h·w, C·p·p) -> (B, C, h·p, w·p); the inverse of `patchify` on a grid (h, w)."""
    h, w = grid
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=patch, q=patch)


def square_grid(image_size: int, stride: int) -> tuple[int, int]:
    """Tokens down and across. Raises ValueError where `stride` pixels a token do not divide the image."""
    if image_size < stride or image_size % stride:
        raise ValueError(f"image_size {image_size} is not a multiple of the {stride} pixels a token covers")
    return image_size // stride, image_size // stride
