"""A data set's best pictures, for fine-tuning on what looks good."""

from __future__ import annotations

from functools import cached_property

import torch
from tqdm import tqdm

from datamodules.base import ExampleDataset, Wrapper
from datamodules.formats.rows import PICTURES
from unifluid.interfaces import ImageQuality
from unifluid.sequence import Example

CHUNK = 64  # pictures scored at once


class Best(Wrapper):
    """The examples of `dataset` whose pictures to be drawn have the highest quality, in their order.

    All of them are scored when the first is asked for, on the CPU and in every process that reads them.

    Args:
        quality: how good a picture is.
        share: of the examples that is kept.

    Raises ValueError where `dataset` draws nothing, or nothing is left.
    """

    def __init__(self, dataset: ExampleDataset, quality: ImageQuality, share: float = 0.2):
        if dataset.task not in ("generate", "edit"):
            raise ValueError(f"Best takes a data set of pictures to be drawn, got one of task {dataset.task}")
        if not 0 < share <= 1 or int(share * len(dataset)) < 1:
            raise ValueError(f"Best.share must leave some of {len(dataset)} examples and be at most 1, got {share}")
        super().__init__(dataset)
        self.quality, self.share = quality, share

    def __len__(self) -> int:
        return int(self.share * len(self.dataset))

    def __getitem__(self, index: int) -> Example:
        return self.dataset[self.chosen[index]]

    def at(self, index: int, pictures: tuple[str, ...] = PICTURES) -> Example | None:
        return self.dataset.at(self.chosen[index], pictures)

    @cached_property
    def chosen(self) -> list[int]:
        """Numbers of the kept examples; of equals, the first."""
        self.quality.load()
        found: list[float] = []
        with tqdm(total=len(self.dataset), desc=self.quality.name, leave=False, disable=None) as bar:
            for start in range(0, len(self.dataset), CHUNK):
                rows = range(start, min(start + CHUNK, len(self.dataset)))
                found += self.quality.scores([self.dataset[i].target for i in rows], torch.device("cpu"))
                bar.update(len(rows))
        return sorted(sorted(range(len(found)), key=lambda i: -found[i])[: len(self)])
