"""Crops and flips around any data set."""

from collections import Counter

import pytest
import tiny
import torch
from torch.nn.functional import interpolate

from datamodules import CentreCrop, Flips, Moves, Stream
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


class Dot(Some):
    """A bright square of 8 pixels in the middle of a dark picture of 32."""

    def __getitem__(self, index):
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[:, 12:20, 12:20] = 200
        return Example(f"{index}", "edit", image, image // 2, instruction=TEXTS[index])


def test_moves_stay_within_their_limits_and_fill_what_comes_into_view():
    shifts, sides = [], []
    for example in (Moves(Dot(), copies=40, shift=0.1, zoom=0.2, fill=(0, 0, 0))[i] for i in range(280)):
        weight = example.image[0].double()
        down, across = (weight.sum(d) @ torch.arange(32.0).double() / weight.sum() - 15.5 for d in (1, 0))
        shifts.append((down, across))
        sides.append((weight.sum() / 200).sqrt() / 8)
        assert (example.target * 2.0 - example.image).abs().max() <= 2  # the target moves alike
    shifts, sides = torch.tensor(shifts), torch.tensor(sides)
    assert 3.2 >= shifts.abs().max() > 3 and shifts.mean(0).abs().max() < 0.4
    assert 1.22 >= sides.max() > 1.17 and 0.78 <= sides.min() < 0.83
    moved = Moves(Some(), shift=0.9, zoom=0, fill=(1, 2, 3))
    corners = torch.stack([moved[i].target[:, y, x] for i in range(40) for y in (0, -1) for x in (0, -1)])
    assert (corners == torch.tensor([1, 2, 3])).all(1).any()


def test_moves_are_a_function_of_the_index_and_still_ones_change_nothing():
    data, still = Moves(Some(), copies=3), Moves(Some(), copies=2, shift=0, zoom=0)
    assert (len(data), data[9].id, len({data[i].id for i in range(21)})) == (21, "2/move1", 21)
    assert torch.equal(data[9].target, Moves(Some(), copies=3)[9].target) and data[9].instruction == TEXTS[2]
    assert not torch.equal(data[9].target, data[16].target)
    assert not torch.equal(data[9].target, Moves(Some(), copies=3, seed=1)[9].target)
    assert torch.equal(still[9].target, Some()[2].target) and torch.equal(still[9].image[1], Some()[2].image[1])
    for bad in ({"copies": 0}, {"shift": 1.0}, {"zoom": -0.1}):
        with pytest.raises(ValueError, match="copies of at least 1, shift and zoom"):
            Moves(Some(), **bad)


def test_they_are_named_in_checkpoints_and_configs():
    config = describe(Moves(CentreCrop(Flips(Some())), copies=2))
    assert build(config, ("datamodules", Some.__module__.split(".")[0]))[21].id == "0/flip/move1"
