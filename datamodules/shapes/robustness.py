"""How far pictures may be from clean before the analyser misreads them: its own error bar."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy import ndimage
from torch import Tensor

from datamodules.shapes.analyser import ShapesAnalyser
from datamodules.shapes.render import render
from datamodules.shapes.scenes import Draw, Scene
from unifluid import randomness

Disturbance = Callable[[Tensor, int], Tensor]  # float image (3, H, W) in 0…255 and an index -> the same, disturbed


def blur(sigma: float) -> Disturbance:
    """Gaussian blur of `sigma` pixels."""
    return lambda image, index: torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, sigma, sigma)))


def noise(sigma: float) -> Disturbance:
    """Gaussian noise of `sigma` grey levels, drawn by index."""
    return lambda image, index: image + sigma * randomness.normal(0, [index], "noise", *image.shape)[0]


def shift(pixels: float) -> Disturbance:
    """A move right and down by a part of a pixel."""

    def moved(image: Tensor, index: int) -> Tensor:
        return torch.from_numpy(ndimage.shift(image.numpy(), (0, pixels, pixels), order=1, mode="nearest"))

    return moved


DISTURBANCES: dict[str, Disturbance] = {
    "clean": lambda image, index: image,
    **{f"blur {sigma}": blur(sigma) for sigma in (0.5, 0.75, 1.0, 1.5)},
    **{f"noise {sigma}": noise(sigma) for sigma in (5, 10, 20, 30)},
    "shift 0.25": shift(0.25),
    "shift 0.5": shift(0.5),
}


def disturb(image: Tensor, disturbance: Disturbance, index: int = 0) -> Tensor:
    """Image (3, H, W) uint8 -> uint8."""
    return disturbance(image.float(), index).round().clamp(0, 255).to(torch.uint8)


def reads(analyser: ShapesAnalyser, image: Tensor, scene: Scene) -> bool:
    """Whether the analyser finds exactly the scene's things, each within a pixel of its place."""
    found = analyser.scene(image)
    if found is None or found.background != scene.background or len(found.things) != len(scene.things):
        return False
    left = list(found.things)
    for thing in scene.things:
        match = [t for t in left if t.kind == thing.kind and max(abs(t.x - thing.x), abs(t.y - thing.y)) <= 1]
        if not match:
            return False
        left.remove(match[0])
    return True


def accuracy(image_size: int, disturbance: str = "clean", scenes: int = 500, seed: int = 0) -> float:
    """Share of scenes read exactly under one of `DISTURBANCES`."""
    analyser, hits = ShapesAnalyser(), 0
    for index in range(scenes):
        draw = Draw(randomness.derive(seed, "robustness", index), image_size, held_out=True)
        scene = draw.scene(draw.kinds())
        hits += reads(analyser, disturb(render(scene), DISTURBANCES[disturbance], index), scene)
    return hits / scenes
