"""Crops and flips around any data set."""

from collections import Counter

import pytest
import tiny
import torch
from torch.nn.functional import interpolate

from datamodules import CentreCrop, Flips, Stream
from datamodules.base import ExampleDataset
from datamodules.mixture import MixedRows
from datamodules.transforms import centre_crop
from unifluid.configs import build, describe
from unifluid.sequence import Example, to_uint8, to_unit

TEXTS = [
    "a dog",
    "the dog on the LEFT",
    "turn it right.",
    "bright leftovers",
    "rotate counterclockwise",
    "the leftmost dog",
    "left-hand side",
]


class Some(ExampleDataset):
    """One picture of 4 × 6 for each of TEXTS."""

    def __init__(self, task="edit"):
        self.task = task

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, index):
        image = torch.arange(72, dtype=torch.uint8).view(3, 4, 6) + index
        text = {"edit": "instruction", "caption": "caption", "answer": "question", "generate": "prompt"}[self.task]
        more = {"answers": ("yes",)} if self.task == "answer" else {}
        return Example(f"{index}", self.task, (image, image + 1), image + 2, **{text: TEXTS[index]}, **more)

    def texts(self):
        return iter(TEXTS)


@pytest.mark.parametrize(("height", "width", "top", "left"), [(5, 9, 0, 2), (8, 3, 2, 0), (4, 4, 0, 0), (6, 7, 0, 0)])
def test_the_square_in_the_middle(height, width, top, left):
    image = tiny.image(0, 16)[:, :height, :width]
    side = min(height, width)
    assert torch.equal(centre_crop(image), image[:, top : top + side, left : left + side])


def test_cropped_pictures_keep_their_shape():
    """Where the sides divide, crop and resize is resize and crop, as statistics for FID are made."""
    image = tiny.image(3, 64)[:, :32, :64]
    smaller = interpolate(image[None].float(), (16, 32), mode="bilinear", antialias=True)[0]
    assert (to_uint8(to_unit(centre_crop(image), 16)).float() - smaller[..., 8:24]).abs()[..., 2:-2].max() <= 1


def test_every_picture_of_an_example_is_cropped():
    data = CentreCrop(Some())
    example, plain = data[1], Some()[1]
    assert (data.task, len(data), list(data.texts())) == ("edit", 7, TEXTS)
    assert [tuple(p.shape) for p in (*example.image, example.target)] == [(3, 4, 4)] * 3
    assert torch.equal(example.target, plain.target[..., 1:5]) and example.id == plain.id


@pytest.mark.parametrize("task", ["edit", "caption", "answer", "generate"])
def test_mirrored_but_for_texts_that_name_sides(task):
    data, plain = Flips(Some(task)), Some(task)
    assert len(data) == 14
    for i in range(len(TEXTS)):
        twin, example = data[7 + i], plain[i]
        assert torch.equal(data[i].target, example.target) and data[i].id == example.id != twin.id
        sides = i not in (0, 3)
        for a, b in zip((*twin.image, twin.target), (*example.image, example.target), strict=True):
            assert torch.equal(a, b if sides else b.flip(-1))
        assert (twin.condition, twin.response) == (example.condition, example.response)
    with pytest.raises(IndexError):
        data[14]


def test_half_of_the_rows_of_a_stream_are_mirrored_whoever_draws_them():
    rows = MixedRows({"a": Stream(Flips(Some()), 4)}, {"a": 4}, seed=0)
    ids = [rows[i][1].id for i in range(560)]
    assert abs(sum("flip" in i for i in ids) - 280) <= 5 and set(Counter(ids).values()) == {40}
    assert [rows[i][1].id for i in reversed(range(560))] == ids[::-1]


def test_they_are_named_in_checkpoints_and_configs():
    config = describe(CentreCrop(Flips(Some())))
    assert build(config, ("datamodules", Some.__module__.split(".")[0]))[7].id == "0/flip"
