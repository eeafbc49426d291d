"""Data sets around data sets, which change pictures before they are resized.

By default every picture is resized to a square, bilinearly, as PaliGemma does (`sequence.to_unit`). Wrap the data set
of a stream in `CentreCrop` to keep the aspect ratio, as FID on COCO has it; in `Flips` to see pictures mirrored too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from torch import Tensor

from datamodules.base import ExampleDataset, Wrapper
from datamodules.moments import CachedMoments
from datamodules.rows import PICTURES
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


class Flips(PictureWrapper):
    """Every picture twice: as it is, and mirrored left to right with the same text. Twice as many examples.

    Which of the two a row of a step gets is a function of (seed, step, row), as the example itself is. An example whose
    text names sides stays as it is both times. Whether other captions bear it – writing becomes unreadable – is yours
    to say: it is off unless named.
    """

    def __len__(self) -> int:
        return 2 * len(self.dataset)

    def __getitem__(self, index: int) -> Example:
        mirrored, row = self._place(index)
        example = self.dataset[row]
        return flipped(example) if mirrored else example

    def at(self, index: int, pictures: tuple[str, ...] = PICTURES) -> Example | None:
        mirrored, row = self._place(index)
        example = self.dataset.at(row, pictures)
        return flipped(example) if mirrored and example is not None else example

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return divmod(index, len(self.dataset))


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
