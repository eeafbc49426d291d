"""Reads a scene from pixels alone: exact on clean pictures, and without mercy on smears.

1. The background is the palette entry that most pixels are near to; its colour is their median.
2. Pixels that stand out from it form connected components: each is one thing, or nothing.
3. A component is compared with the ten sprites (shape × size), sharp and in two degrees of blur, each moved onto the
   component's centroid to a quarter pixel. With X (n, 3) the component's difference from the background, the fit of a
   sprite t (n,) is the share of energy it explains in one colour: max over c of
   1 − ‖X − tcᵀ‖² / ‖X‖² = ‖Xᵀt‖² / (‖t‖² ‖X‖²).
4. The best sprite is accepted if it fits well, better than every other shape, in a colour of the palette, and leaves
   no stray pixels: a bump is a small share of the energy, but it is not part of a circle.

The thresholds were set on clean, blurred and noisy renders against half-erased and merged things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from datamodules.shapes.render import coverage
from datamodules.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, Thing, extent
from unifluid.interfaces import ColourClassifier, Detection, Detector

NEAR = 45.0  # RGB distance within which a pixel counts as background
BACKGROUND_SHARE = 0.3  # least share of the picture that must be background
CONTRAST = 0.4  # a pixel stands out if its distance is this share of the largest next to it
FIT = 0.88  # least share of a component's energy that its sprite must explain
MARGIN = 0.01  # by which the fit must exceed every other shape's
STRAY = 70.0  # least RGB distance from the fitted sprite, off its edge, that makes a pixel stray, and
STRAY_CONTRAST = 0.24  # the same as a share of the thing's own contrast, for soft edges
STRAY_SHARE = 1 / 1024  # share of the picture that may be stray in one component: one pixel of 32 × 32
COLOUR_DISTANCE = 55.0  # largest RGB distance to a palette colour
GAINS = np.linspace(0.75, 1.0, 6)  # soft edges pull a thing's colour towards the background by up to a quarter
BLURS = (0.0, 1 / 80, 1 / 40)  # of the sprites, as a share of the picture's side
STEPS = 4  # sub-pixel positions a pixel
PAD = 2  # pixels around a sprite's box, for its blur and sub-pixel moves

BACKGROUND_RGB = np.array(list(BACKGROUNDS.values()), np.float32)
COLOUR_RGB = np.array(list(COLOURS.values()), np.float32)


class Component(NamedTuple):
    """One thing, or what passes for one. `pixels` (H + 2P, W + 2P, 3) is zero outside it, P = `border`."""

    mask: np.ndarray  # (H, W)
    pixels: np.ndarray
    centroid: tuple[float, float]


class Fit(NamedTuple):
    """How a sprite explains a component: `colour` is a difference from the background, (x, y) the shape's centre."""

    share: float
    shape: str
    size: str
    x: float
    y: float
    colour: np.ndarray
    sprite: np.ndarray
    window: tuple[slice, slice]  # where the sprite lies in `Component.pixels`


def border(image_size: int) -> int:
    return 2 * extent("large", image_size) + PAD


@cache
def sprite(shape: str, size: str, image_size: int, blur: float, qx: int, qy: int) -> np.ndarray:
    """Coverage of a shape moved by (qx, qy) / STEPS pixels, float32."""
    alpha = coverage(shape, size, image_size, qx / STEPS, qy / STEPS, PAD)
    return ndimage.gaussian_filter(alpha, blur * image_size) if blur else alpha


def centroid(weights: np.ndarray) -> tuple[float, float]:
    """(x, y) of non-negative weights (H, W)."""
    total = weights.sum()
    return weights.sum(0) @ np.arange(weights.shape[1]) / total, weights.sum(1) @ np.arange(len(weights)) / total


@cache
def sprite_centroid(shape: str, size: str, image_size: int) -> tuple[float, float]:
    """Of a shape, relative to its centre."""
    x, y = centroid(coverage(shape, size, image_size))
    reach = extent(size, image_size)
    return x - reach, y - reach


@cache
def least_area(image_size: int) -> float:
    """Half the area of the smallest sprite: less is a speck, not a thing."""
    return min(coverage(shape, "small", image_size).sum() for shape in SHAPES) / 2


def find_background(pixels: np.ndarray) -> tuple[str, np.ndarray] | None:
    """Name and actual RGB of the background of pixels (H, W, 3), None where no palette entry covers enough."""
    near = np.linalg.norm(pixels[:, :, None] - BACKGROUND_RGB, axis=-1) < NEAR
    best = int(near.sum((0, 1)).argmax())
    if near[..., best].mean() < BACKGROUND_SHARE:
        return None
    return list(BACKGROUNDS)[best], np.median(pixels[near[..., best]], axis=0)


def find_components(difference: np.ndarray) -> Iterator[Component]:
    """Connected regions of pixels (H, W, 3) that stand out from zero, each with the soft edge around it."""
    size = len(difference)
    distance = np.linalg.norm(difference, axis=-1)
    labels, count = ndimage.label((distance > NEAR) & (distance > CONTRAST * ndimage.maximum_filter(distance, 3)))
    for label in range(1, count + 1):
        mask = labels == label
        if mask.sum() < least_area(size):
            continue
        with_edge = ndimage.binary_dilation(mask, np.ones((3, 3))) & (mask | (labels == 0))
        pixels = np.where(with_edge[..., None], difference, 0)
        # Projected on the mean colour, weights are proportional to coverage and noise does not bias them.
        weights = np.maximum(pixels @ pixels[mask].mean(0), 0)
        edge = border(size)
        yield Component(mask, np.pad(pixels, ((edge, edge), (edge, edge), (0, 0))), centroid(weights))


def fits(component: Component) -> list[Fit]:
    """Every sprite on the component's centroid, best first."""
    size_px, found = len(component.mask), []
    energy = float((component.pixels**2).sum())
    for shape in SHAPES:
        for size in SIZES:
            offset = sprite_centroid(shape, size, size_px)
            quarter_x, quarter_y = (round((c - o) * STEPS) for c, o in zip(component.centroid, offset, strict=True))
            x, y = round(quarter_x / STEPS), round(quarter_y / STEPS)
            reach, edge = extent(size, size_px) + PAD, border(size_px)
            window = slice(y + edge - reach, y + edge + reach + 1), slice(x + edge - reach, x + edge + reach + 1)
            for blur in BLURS:
                t = sprite(shape, size, size_px, blur, quarter_x - STEPS * x, quarter_y - STEPS * y)
                projection = t.ravel() @ component.pixels[window].reshape(-1, 3)
                norm = float((t * t).sum())
                share = float(projection @ projection) / (norm * energy)
                found.append(
                    Fit(share, shape, size, quarter_x / STEPS, quarter_y / STEPS, projection / norm, t, window)
                )
    return sorted(found, key=lambda fit: -fit.share)


def stray_pixels(component: Component, fit: Fit) -> int:
    """Pixels that the fitted sprite leaves unexplained, apart from its edge, where a hair's breadth changes much."""
    residual, alpha = component.pixels.copy(), np.zeros(component.pixels.shape[:2], np.float32)
    residual[fit.window] -= fit.sprite[..., None] * fit.colour
    alpha[fit.window] = fit.sprite
    limit = max(STRAY, STRAY_CONTRAST * float(np.linalg.norm(fit.colour)))
    return int((((alpha < 0.05) | (alpha > 0.9)) & ((residual**2).sum(-1) > limit**2)).sum())


def nearest_colour(difference: np.ndarray, background: np.ndarray) -> str | None:
    """The palette colour that, seen softly on this background, differs from it like this; None if none is near."""
    candidates = GAINS[:, None, None] * (COLOUR_RGB - background)
    distances = np.linalg.norm(difference - candidates, axis=-1).min(0)
    return list(COLOURS)[int(distances.argmin())] if distances.min() < COLOUR_DISTANCE else None


class ShapesAnalyser(Detector, ColourClassifier):
    """Detector and colour classifier for synthetic scenes of any size. What it accepts, it is sure of: score 1."""

    def detect(self, images: Sequence[Tensor], device: torch.device) -> list[list[Detection]]:
        """Images (3, H, W) uint8, H = W -> things, left to right; attributes: size, colour, x, y, fit."""
        return [self._read(image)[1] for image in images]

    def colours(self, image: Tensor, detections: list[Detection], device: torch.device) -> list[str]:
        """The palette colours found with the things themselves. Raises ValueError for another's detections."""
        if any("colour" not in detection.attributes for detection in detections):
            raise ValueError(
                "ShapesAnalyser names the colours of what it has found itself: name it as the detector too"
            )
        return [detection.attributes["colour"] for detection in detections]

    def scene(self, image: Tensor) -> Scene | None:
        """The scene an image shows, as ground truth has it; None where it has no background."""
        background, detections = self._read(image)
        if background is None:
            return None
        things = []
        for d in detections:
            a = d.attributes
            things.append(Thing(a["size"], a["colour"], d.name, round(a["x"]), round(a["y"])))
        return Scene(background, tuple(sorted(things, key=lambda thing: (thing.x, thing.y))), image.shape[-1])

    def _read(self, image: Tensor) -> tuple[str | None, list[Detection]]:
        pixels = image.permute(1, 2, 0).numpy().astype(np.float32)
        background = find_background(pixels)
        if background is None:
            return None, []
        name, rgb = background
        found = [self._recognise(component, rgb) for component in find_components(pixels - rgb)]
        return name, sorted((d for d in found if d), key=lambda d: (d.attributes["x"], d.attributes["y"]))

    def _recognise(self, component: Component, background: np.ndarray) -> Detection | None:
        ranking = fits(component)
        best = ranking[0]
        second = next(fit.share for fit in ranking if fit.shape != best.shape)
        colour = nearest_colour(best.colour, background)
        allowed = STRAY_SHARE * component.mask.size
        if best.share < FIT or best.share - second < MARGIN or colour is None:
            return None
        if stray_pixels(component, best) > allowed:
            return None
        rows, columns = np.flatnonzero(component.mask.any(1)), np.flatnonzero(component.mask.any(0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        attributes = {"size": best.size, "colour": colour, "x": best.x, "y": best.y, "fit": best.share}
        return Detection(best.shape, 1.0, component.mask, box, attributes)
