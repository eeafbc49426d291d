"""Scenes -> pixels: anti-aliased sprites, computed once and copied onto a plain background."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from datamodules.shapes.scenes import BACKGROUNDS, COLOURS, Scene, extent, radius

SAMPLES = 16  # sub-pixels a side


# Whether points (x, y), relative to the centre and in radii, y downward, belong to a shape.
INSIDE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: x**2 + y**2 <= 1,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.86,
    "triangle": lambda x, y: (y <= 0.85) & (abs(x) <= (y + 1) * 0.55),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.34) & (np.maximum(abs(x), abs(y)) <= 1),
    "ring": lambda x, y: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.52**2),
}


@cache
def coverage(shape: str, size: str, image_size: int, dx: float = 0, dy: float = 0, margin: int = 0) -> np.ndarray:
    """Share of each pixel that the shape covers, float32 in [0, 1], in its box of 2·extent + 1 pixels plus a margin.

    (dx, dy) moves the shape off the centre pixel's middle, in pixels.
    """
    side = 2 * (extent(size, image_size) + margin) + 1
    points, r = (np.arange(side * SAMPLES) + 0.5) / SAMPLES - side / 2, radius(size, image_size)
    mask = INSIDE[shape]((points[None, :] - dx) / r, (points[:, None] - dy) / r)
    return mask.reshape(side, SAMPLES, side, SAMPLES).mean((1, 3), dtype=np.float32)


@cache
def sprite(shape: str, size: str, colour: str, background: str, image_size: int) -> np.ndarray:
    """The shape's box as it looks on a background, (3, 2e + 1, 2e + 1) uint8."""
    alpha = coverage(shape, size, image_size)
    front, back = (np.array(rgb, np.float32)[:, None, None] for rgb in (COLOURS[colour], BACKGROUNDS[background]))
    return np.rint(alpha * front + (1 - alpha) * back).astype(np.uint8)


@cache
def canvas(background: str, image_size: int) -> np.ndarray:
    """An empty picture, (3, H, W) uint8."""
    rgb = np.array(BACKGROUNDS[background], np.uint8)
    return np.broadcast_to(rgb[:, None, None], (3, image_size, image_size)).copy()


def render(scene: Scene) -> Tensor:
    """The scene as an image, (3, H, W) uint8. Boxes are disjoint, so every sprite is simply copied to its place."""
    image = canvas(scene.background, scene.image_size).copy()
    for size, colour, shape, x, y in scene.things:
        pixels = sprite(shape, size, colour, scene.background, scene.image_size)
        reach = pixels.shape[1] // 2
        image[:, y - reach : y + reach + 1, x - reach : x + reach + 1] = pixels
    return torch.from_numpy(image)
