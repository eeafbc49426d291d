"""The analyser is exact on clean pictures, bears soft and noisy ones, and takes no smear for a thing."""

import time

import numpy as np
import pytest
import torch
from scipy import ndimage

from datamodules.shapes import Shapes
from datamodules.shapes.analyser import ShapesAnalyser
from datamodules.shapes.render import coverage, render
from datamodules.shapes.robustness import accuracy
from datamodules.shapes.scenes import BACKGROUNDS, COLOURS, Draw, Kind, extent, make_scene
from unifluid.evaluation.geneval import TAGS, score_images
from unifluid.interfaces import Detection

IMAGE_SIZES = (32, 48, 64)
ANALYSER = ShapesAnalyser()
CPU = torch.device("cpu")


def detect(image):
    return ANALYSER.detect([image], CPU)[0]


def shows(image, metadata):
    return score_images([image], [metadata], ANALYSER, ANALYSER, CPU)[0][0]


def draws(n, image_size):
    return (Draw(seed, image_size, held_out=True) for seed in range(n))


def found_share(images):
    images = list(images)
    return sum(bool(detect(image)) for image in images) / len(images)


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_exact_on_clean_pictures(image_size):
    assert accuracy(image_size, scenes=400) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_exact_on_5000_clean_pictures(image_size):
    assert accuracy(image_size, scenes=5000, seed=1) >= 0.999


@pytest.mark.parametrize(
    ("disturbance", "image_size", "least"),
    [
        ("blur 0.5", 32, 0.99),
        ("blur 0.75", 32, 0.98),
        ("blur 1.0", 32, 0.8),
        ("noise 5", 32, 0.99),
        ("noise 10", 32, 0.98),
        ("shift 0.5", 32, 0.98),
        ("blur 0.75", 64, 0.98),
        ("blur 1.0", 64, 0.98),
        ("shift 0.5", 48, 0.98),
        ("noise 10", 64, 0.98),
    ],
)
def test_soft_and_noisy_pictures_still_count(disturbance, image_size, least):
    assert accuracy(image_size, disturbance, scenes=120) >= least


def test_strong_blur_is_no_scene():
    assert accuracy(32, "noise 30", scenes=60) < 0.3  # the measure itself can fail
    assert accuracy(32, "blur 1.5", scenes=60) < 0.7


def test_a_slight_change_of_colour_still_counts():
    right = 0
    for draw in draws(150, 32):
        scene = draw.scene(draw.kinds())
        image = render(scene).float() * 0.95 + 3
        found = ANALYSER.scene(image.to(torch.uint8))
        right += found is not None and found.things == scene.things
    assert right >= 148


def test_what_a_detection_says():
    scene = make_scene(
        "navy", [Kind("large", "yellow", "square"), Kind("small", "pink", "ring")], [(8, 10), (24, 21)], 32
    )
    image = render(scene)
    assert ANALYSER.scene(image) == scene
    square, ring = detect(image)
    assert isinstance(square, Detection) and (square.name, ring.name) == ("square", "ring")
    assert square.score == ring.score == 1.0
    assert ANALYSER.colours(image, [ring, square], CPU) == ["pink", "yellow"]
    reach = 0.86 * 0.2 * 32  # 5.5: the square covers 11 pixels
    assert square.box == pytest.approx((8.5 - reach, 10.5 - reach, 8.5 + reach, 10.5 + reach), abs=0.6)
    rows, columns = np.nonzero(square.mask)
    assert square.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert square.mask[10, 8] and not ring.mask[21, 24] and ring.mask[21, 27]
    assert (ring.attributes["size"], ring.attributes["x"], ring.attributes["y"]) == ("small", 24, 21)


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_noise_is_rejected(image_size):
    rng = np.random.default_rng(0)
    shape = (3, image_size, image_size)

    def uniform():
        return rng.integers(0, 256, shape)

    def grey():
        return 128 + 40 * rng.normal(size=shape)

    def clouds():
        return 128 + 400 * ndimage.gaussian_filter(rng.normal(size=shape), (0, 2, 2))

    def blots():
        """Smears of one palette colour on a clean background."""
        smear = ndimage.gaussian_filter(rng.normal(size=shape[1:]), rng.uniform(1, 4))
        smear = np.clip(4 * smear / smear.std() - 3, 0, 1)
        colour, back = (np.array(rng.choice(list(p.values())))[:, None, None] for p in (COLOURS, BACKGROUNDS))
        return smear * colour + (1 - smear) * back

    # A blot may happen to be round: of 100 pictures with several each, a few hold one that is.
    for make, most in ((uniform, 0.0), (grey, 0.0), (clouds, 0.01), (blots, 0.05)):
        images = [torch.from_numpy(np.clip(make(), 0, 255).astype(np.uint8)) for _ in range(100)]
        assert found_share(images) <= most, make.__name__


def half_erased(draw):
    """A scene of which every thing has lost one half; never a triangle its lower one, for the upper is a triangle."""
    scene = draw.scene(draw.kinds())
    image = render(scene)
    for thing in scene.things:
        reach = extent(thing.size, scene.image_size)
        left, top, right, bottom = thing.x - reach, thing.y - reach, thing.x + reach + 1, thing.y + reach + 1
        halves = [(left, top, thing.x, bottom), (thing.x + 1, top, right, bottom), (left, top, right, thing.y)]
        if thing.shape != "triangle":
            halves.append((left, thing.y + 1, right, bottom))
        x0, y0, x1, y1 = draw.choice(halves)
        image[:, y0:y1, x0:x1] = torch.tensor(BACKGROUNDS[scene.background], dtype=torch.uint8)[:, None, None]
    return image


def merged(draw):
    """Two things, of one colour or two, of which 5 to 40 % of the smaller one lie on the other."""
    size = draw.image_size
    while True:
        kinds = [draw.kind(), draw.kind()]
        if draw.chance(0.5):
            kinds[1] = kinds[1]._replace(colour=kinds[0].colour)
        layers = []
        for kind in kinds:
            reach, layer = extent(kind.size, size), np.zeros((size, size), np.float32)
            x, y = (reach + draw.below(size - 2 * reach) for _ in range(2))
            layer[y - reach : y + reach + 1, x - reach : x + reach + 1] = coverage(kind.shape, kind.size, size)
            layers.append(layer)
        if not 0.05 <= np.minimum(*layers).sum() / min(layer.sum() for layer in layers) <= 0.4:
            continue
        image = np.array(BACKGROUNDS[draw.background()], float)[:, None, None]
        for kind, layer in zip(kinds, layers, strict=True):
            image = image * (1 - layer) + layer * np.array(COLOURS[kind.colour])[:, None, None]
        return torch.from_numpy(image.round().astype(np.uint8))


@pytest.mark.parametrize("make", [half_erased, merged])
@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_half_things_and_merged_things_are_rejected(make, image_size):
    assert found_share(make(draw) for draw in draws(300, image_size)) <= 0.01


def test_empty_pictures_and_unknown_backgrounds():
    for rgb in BACKGROUNDS.values():
        image = torch.tensor(rgb, dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
        assert detect(image) == [] and ANALYSER.scene(image).things == ()
    image = torch.tensor(COLOURS["red"], dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    assert detect(image) == [] and ANALYSER.scene(image) is None


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_true_pictures_score_full_marks_and_others_do_not(image_size):
    dataset = Shapes("generate", image_size=image_size, split="val")
    drawn = [dataset[i] for i in range(180)]
    assert all(shows(example.target, example.meta) for example in drawn)
    swapped = {tag: 0 for tag in TAGS}
    for example, other in zip(drawn, drawn[6:], strict=False):  # the next picture of the same category
        swapped[example.meta["tag"]] += shows(other.target, example.meta)
    assert all(count < 0.4 * 29 for count in swapped.values()), swapped


def test_a_picture_takes_milliseconds():
    images = [render(draw.scene(draw.kinds())) for draw in draws(40, 32)]
    costs = []
    for _ in range(3):
        start = time.process_time()
        for image in images:
            detect(image)
        costs.append((time.process_time() - start) / len(images))
    assert min(costs) < 10e-3  # about 2 ms here
