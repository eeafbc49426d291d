"""What every data set of the kit offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import Dataset

from datamodules.formats.rows import PICTURES, Problem
from unifluid.interfaces import ImageTokenizer, Recorded
from unifluid.sequence import Example, Task


class ExampleDataset(Recorded, Dataset, ABC):
    """Map-style: item i is the same `Example` at every call, in every process. All of one task."""

    task: Task

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """Example `index`; where that is bad, another one, always the same."""

    @abstractmethod
    def texts(self) -> Iterator[str]:
        """Text to train a tokenizer on: all of it, or a fair sample."""

    def at(self, index: int, pictures: tuple[str, ...] = PICTURES) -> Example | None:
        """Example `index` itself, None where it is bad. Only `pictures` need be read."""
        return self[index]

    @property
    def sources(self) -> tuple[Source, ...]:
        """The data sets this one reads that leave bad rows out, and count them."""
        return ()

    def check_tokenizer(self, tokenizer: ImageTokenizer | None) -> None:
        """Raises ValueError where what is stored here is not of the model's image tokenizer; None where it has none."""

    def score_text(self, example: Example, text: str) -> bool:
        """Whether `text` is a right caption or answer: one of the example's own, unless a data set knows better."""
        right = (example.caption,) if example.task == "caption" else example.answers
        return text.strip() in right

    def score_edit(self, example: Example, image: Tensor) -> tuple[bool, bool] | None:
        """Whether `image` (3, H, W) uint8 shows what the instruction asks for, and all the rest as it was; None from a
        data set that cannot tell."""
        return None


class Source(ExampleDataset):
    """A data set that leaves bad rows out, and counts them (`formats.skipping` has the one implementation)."""

    problems: list[Problem] | None  # all that is wrong, within `formats.skipping.inspection` only
    found: Tensor  # (rows,) one byte a row: 0, or 1 + the reason it has been found bad for

    @property
    @abstractmethod
    def total(self) -> int:
        """Rows there would be if all were good."""

    @property
    @abstractmethod
    def skipped(self) -> Counter[str]:
        """How many rows have been found bad so far, by reason."""

    @abstractmethod
    def refusal(self) -> str | None:
        """Why a run stops for what has been found so far, in one line."""


class Wrapper(ExampleDataset):
    """A data set around another one; all that a subclass does not change is the other's."""

    def __init__(self, dataset: ExampleDataset):
        self.dataset, self.task = dataset, dataset.task

    def __len__(self) -> int:
        return len(self.dataset)

    def texts(self) -> Iterator[str]:
        return self.dataset.texts()

    @property
    def sources(self) -> tuple[Source, ...]:
        return self.dataset.sources

    def check_tokenizer(self, tokenizer: ImageTokenizer | None) -> None:
        self.dataset.check_tokenizer(tokenizer)

    def score_text(self, example: Example, text: str) -> bool:
        return self.dataset.score_text(example, text)

    def score_edit(self, example: Example, image: Tensor) -> tuple[bool, bool] | None:
        return self.dataset.score_edit(example, image)
