"""Data sets around data sets, which change pictures before they are resized.

By default every picture is resized to a square, bilinearly, as PaliGemma does (`sequence.to_unit`). Wrap the data set
of a stream in `CentreCrop` to keep the aspect ratio, as FID on COCO has it; in `Flips` to see pictures mirrored too; in
`Moves`, so that a small data set is not learned by heart.
"""

from __future__ import annotations

import dataclasses
import re
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import affine

from datamodules.base import ExampleDataset, Wrapper
from datamodules.formats.rows import PICTURES
from datamodules.moments import CachedMoments
from unifluid.randomness import generator
from unifluid.sequence import Example

SIDES = re.compile(r"\b(left|right)(most|wards?)?\b|clockwise", re.IGNORECASE)


class PictureWrapper(Wrapper):
    """Changes pictures; raises ValueError where there are none left, but moments made of them."""

    def __init__(self, dataset: ExampleDataset):
        if isinstance(dataset, CachedMoments):
            raise ValueError(f"{type(self).__name__} must be within CachedMoments, not around it")
        super().__init__(dataset)


class CentreCrop(PictureWrapper):
    """The largest square in the middle of each picture, looked at or drawn, instead of all of it squeezed."""

    def __getitem__(self, index: int) -> Example:
        return _change(self.dataset[index], centre_crop)

    def at(self, index: int, pictures: tuple[str, ...] = PICTURES) -> Example | None:
        example = self.dataset.at(index, pictures)
        return None if example is None else _change(example, centre_crop)


class Variants(PictureWrapper):
    """Every example `copies` times, each with its pictures changed another way.

    Which of them a row of a step gets is a function of (seed, step, row), as the example itself is.
    """

    copies: int

    @abstractmethod
    def vary(self, example: Example, copy: int, row: int) -> Example:
        """Copy number `copy` of `example`, which is number `row`, under an id of its own."""

    def __len__(self) -> int:
        return self.copies * len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        copy, row = self._place(index)
        return self.vary(self.dataset[row], copy, row)

    def at(self, index: int, pictures: tuple[str, ...] = PICTURES) -> Example | None:
        copy, row = self._place(index)
        example = self.dataset.at(row, pictures)
        return None if example is None else self.vary(example, copy, row)

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return divmod(index, len(self.dataset))


class Flips(Variants):
    """Every picture twice: as it is, and mirrored left to right with the same text.

    An example whose text names sides stays as it is both times. Whether other captions bear it – writing becomes
    unreadable – is yours to say: it is off unless named.
    """

    copies = 2

    def vary(self, example: Example, copy: int, row: int) -> Example:
        return flipped(example) if copy else example


class Moves(Variants):
    """Every picture moved and scaled a little at random, all pictures of an example alike.

    Args:
        copies: different moves of each example.
        shift: largest move across and down, as a share of the picture's sides.
        zoom: pictures are scaled by a factor between 1 − zoom and 1 + zoom.
        fill: RGB, 0 … 255, of what comes into view.
        seed: of the moves.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        copies: int = 16,
        shift: float = 0.1,
        zoom: float = 0.1,
        fill: tuple[int, int, int] = (255, 255, 255),
        seed: int = 0,
    ):
        super().__init__(dataset)
        if copies < 1 or not 0 <= shift < 1 or not 0 <= zoom < 1:
            raise ValueError(
                f"Moves needs copies of at least 1, shift and zoom in [0, 1); got {copies}, {shift} and {zoom}"
            )
        self.copies, self.shift, self.zoom, self.fill, self.seed = copies, shift, zoom, list(fill), seed

    def vary(self, example: Example, copy: int, row: int) -> Example:
        across, down, scale = (2 * torch.rand(3, generator=generator(self.seed, "moves", copy, row)) - 1).tolist()

        def move(image: Tensor) -> Tensor:
            height, width = image.shape[-2:]
            shift = [across * self.shift * width, down * self.shift * height]
            bilinear = InterpolationMode.BILINEAR
            return affine(image, 0.0, shift, 1 + scale * self.zoom, [0.0], interpolation=bilinear, fill=self.fill)

        return dataclasses.replace(_change(example, move), id=f"{example.id}/move{copy}")


def centre_crop(image: Tensor) -> Tensor:
    """(3, H, W) -> (3, S, S) with S = min(H, W)."""
    height, width = image.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[..., top : top + side, left : left + side]


def flipped(example: Example) -> Example:
    """The mirror image under an id of its own; as it was where the text names sides."""
    texts = (example.condition, example.caption, *example.answers)
    if any(SIDES.search(text) for text in texts if text):
        return dataclasses.replace(example, id=f"{example.id}/flip")
    return dataclasses.replace(_change(example, lambda image: image.flip(-1)), id=f"{example.id}/flip")


def _change(example: Example, change: Callable[[Tensor], Tensor]) -> Example:
    image, target = example.image, example.target
    return dataclasses.replace(
        example,
        image=tuple(map(change, image)) if isinstance(image, tuple) else image if image is None else change(image),
        target=None if target is None else change(target),
    )
