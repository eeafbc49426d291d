"""What every data set of the kit offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch.utils.data import Dataset

from unifluid.interfaces import Recorded
from unifluid.sequence import Example, Task


class ExampleDataset(Recorded, Dataset, ABC):
    """Map-style: item i is the same `Example` at every call, in every process. All of one task."""

    task: Task

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Example: ...

    @abstractmethod
    def texts(self) -> Iterator[str]:
        """Text to train a tokenizer on: all of it, or a fair sample."""

    def score_text(self, example: Example, text: str) -> bool:
        """Whether `text` is a right caption or answer: one of the example's own, unless a data set knows better."""
        right = (example.caption,) if example.task == "caption" else example.answers
        return text.strip() in right
