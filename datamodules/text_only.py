"""Language alone: what a data set says of its pictures, without the pictures."""

from __future__ import annotations

import dataclasses

from datamodules.base import ExampleDataset, Wrapper
from datamodules.formats.rows import PICTURES
from unifluid.sequence import TEXT_TASKS, Example


class TextOnly(Wrapper):
    """Captions or answers of `dataset` with nothing to look at: a text-only stage teaches a model their language.

    Raises ValueError where `dataset` holds pictures to be drawn, which leave nothing to learn.
    """

    def __init__(self, dataset: ExampleDataset):
        if dataset.task not in TEXT_TASKS:
            raise ValueError(f"TextOnly takes a data set of task {' or '.join(TEXT_TASKS)}, got {dataset.task}")
        super().__init__(dataset)

    def __getitem__(self, index: int) -> Example:
        return dataclasses.replace(self.dataset[index], image=None)

    def at(self, index: int, pictures: tuple[str, ...] = PICTURES) -> Example | None:
        example = self.dataset.at(index, ())
        return None if example is None else dataclasses.replace(example, image=None)
