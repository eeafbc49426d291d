"""Scenes have room, are drawn evenly and as functions of their index; pictures show them as geometry says."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from datamodules.shapes.render import coverage, render
from datamodules.shapes.scenes import BACKGROUNDS, COLOURS, GAP, SHAPES, SIZES, Draw, Kind, extent, make_scene, side

IMAGE_SIZES = (32, 48, 64)
AREAS = {  # of shapes of radius 1
    "circle": math.pi,
    "square": 1.72**2,
    "triangle": 0.55 * 1.85**2,
    "cross": 2 * 2 * 0.68 - 0.68**2,
    "ring": math.pi * (1 - 0.52**2),
}


def scenes(image_size, n=300):
    for seed in range(n):
        draw = Draw(seed, image_size, held_out=True)
        yield draw.scene(draw.kinds())


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_things_lie_inside_and_apart(image_size):
    for scene in scenes(image_size):
        taken = np.zeros((image_size, image_size), int)
        for thing in scene.things:
            reach = extent(thing.size, image_size)
            assert reach <= thing.x < image_size - reach and reach <= thing.y < image_size - reach
            rows, columns = (slice(max(v - reach - GAP, 0), v + reach + GAP + 1) for v in (thing.y, thing.x))
            assert taken[rows, columns].sum() == 0
            taken[thing.y - reach : thing.y + reach + 1, thing.x - reach : thing.x + reach + 1] = 1
        background = torch.tensor(BACKGROUNDS[scene.background], dtype=torch.uint8)
        image = render(scene)
        assert image.shape == (3, image_size, image_size) and image.dtype == torch.uint8
        assert (image.permute(1, 2, 0)[taken == 0] == background).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_shapes_have_their_area_and_are_symmetrical(shape, size, image_size):
    alpha = coverage(shape, size, image_size)
    assert alpha.sum() == pytest.approx(AREAS[shape] * (SIZES[size] * image_size) ** 2, rel=0.03)
    assert np.array_equal(alpha, alpha[:, ::-1])
    assert np.array_equal(alpha, alpha[::-1]) == (shape != "triangle")
    assert coverage(shape, size, image_size, margin=2)[2:-2, 2:-2] == pytest.approx(alpha)  # nothing is cut off
    assert coverage(shape, size, image_size, margin=2).sum() == pytest.approx(alpha.sum())


def test_pixels_inside_and_on_the_edge():
    scene = make_scene("grey", [Kind("large", "red", "square"), Kind("small", "blue", "ring")], [(8, 9), (25, 20)], 32)
    image = render(scene)
    assert tuple(image[:, 9, 8].tolist()) == COLOURS["red"]
    assert tuple(image[:, 20, 25].tolist()) == BACKGROUNDS["grey"]  # the hole of the ring
    assert tuple(image[:, 20, 28].tolist()) == COLOURS["blue"]
    edge = image[:, 9, 8 - extent("large", 32) + 1].float()  # partly covered: between background and colour
    weight = (edge - torch.tensor(BACKGROUNDS["grey"])) / (
        torch.tensor(COLOURS["red"]) - torch.tensor(BACKGROUNDS["grey"])
    )
    assert weight.max() - weight.min() < 0.02 and 0 < weight.mean() <= 1


def test_reading_order():
    for scene in scenes(32, 100):
        places = [(thing.x, thing.y) for thing in scene.things]
        assert places == sorted(places)


def test_everything_is_drawn_as_often_as_its_likes():
    drawn = list(scenes(64, 4000))
    counts = Counter(len(scene.things) for scene in drawn)
    assert all(counts[n] / len(drawn) == pytest.approx(1 / 4, abs=0.03) for n in (1, 2, 3, 4))
    things = [thing for scene in drawn for thing in scene.things]
    for values, n in (([t.shape for t in things], 5), ([t.colour for t in things], 8), ([t.size for t in things], 2)):
        shares = [count / len(things) for count in Counter(values).values()]
        assert len(shares) == n and shares == pytest.approx([1 / n] * n, abs=0.03)
    assert len(Counter(scene.background for scene in drawn)) == len(BACKGROUNDS)


def test_colours_are_far_apart():
    rgb = np.array([*COLOURS.values(), *BACKGROUNDS.values()], float)
    distances = np.linalg.norm(rgb[:, None] - rgb, axis=-1) + 1e9 * np.eye(len(rgb))
    assert distances.min() > 100


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((-3, 0), "left"),
        ((3, 2), "right"),
        ((0, -1), "above"),
        ((2, 3), "below"),
        ((3, 3), None),
        ((4, 3), None),
        ((0, 0), "right"),
    ],
)
def test_side(offset, expected):
    assert side((10 + offset[0], 10 + offset[1]), (10, 10)) == expected
