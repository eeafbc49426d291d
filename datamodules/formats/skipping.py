"""Untrusted rows: bad ones are skipped and counted by reason, limited, and replaced, always alike."""

from __future__ import annotations

import contextlib
import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch

from datamodules import images
from datamodules.base import Source
from datamodules.formats import rows
from datamodules.formats.rows import PICTURES, BadRow, Problem
from unifluid.randomness import permuted_index
from unifluid.sequence import TASKS, Example, Task

log = logging.getLogger(__name__)

REASONS = (
    *images.REASONS,
    *rows.REASONS,
    "corrupt shard",
    "missing shard",
)  # what a row can be found to suffer from when it is read
SHOWN = 5  # bad rows named in the log
FEW = 5  # bad rows that any data set may have: of a small one, a share says little


_inspection: list[Problem] | None = None


@contextlib.contextmanager
def inspection() -> Iterator[list[Problem]]:
    """Sources made within list all that is wrong, and neither stop nor log (`unifluid data check`)."""
    global _inspection
    _inspection = []
    try:
        yield _inspection
    finally:
        _inspection = None


class Skipping(Source):
    """A map from 0 … len - 1 to `Example`s, some of which may turn out to be bad.

    A subclass reads its index in `__init__`: `reject` for each row that is bad already there, then `begin`, once the
    others are known. `load` and `where` then read and name one of them. A row found bad when it is read is replaced by
    the next good one. Both kinds are counted in `skipped` by reason; the first five of each are named in the log.

    Raises ValueError, in one line, where more than `max_skipped` (a share) of the rows are bad or none is left, and, if
    `strict` (evaluation), at the first bad row or repeated id. `FEW` rows may always be bad, unless `max_skipped` is 0.
    """

    def __init__(self, source: str, task: Task, max_skipped: float, strict: bool):
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        self.source, self.task = source, task
        self.max_skipped, self.strict = max_skipped, strict
        self.problems = _inspection
        self._rejected: Counter[str] = Counter()
        self._example: str | None = None
        self._unchecked = 0  # bad rows since the limit was looked at

    @abstractmethod
    def load(self, row: int, pictures: tuple[str, ...]) -> Example:
        """Row `row`, with those of its pictures that `pictures` names. Raises BadRow."""

    @abstractmethod
    def where(self, row: int) -> str:
        """File and place of row `row`, for messages."""

    # -- the index ------------------------------------------------------------------------------------------------

    def reject(self, where: str, error: BadRow) -> None:
        """A row that is bad already in the index."""
        self._rejected[error.reason] += 1
        self._note(Problem(where, error.reason, error.detail), self._rejected.total())

    def begin(self, rows: int) -> None:
        """The index is read: there are `rows` rows."""
        if not rows:
            why = counted(self._rejected) if self._rejected else f"no row has task {self.task}"
            raise ValueError(f"{self.source}: no usable {self.task} row ({why})")
        # 0, or 1 + the reason a row is bad; shared, so that what a loader worker finds is counted here and once.
        self.found = torch.zeros(rows, dtype=torch.uint8).share_memory_()
        self._shown = torch.zeros(1, dtype=torch.int64).share_memory_()
        if self.problems is None and (refusal := self.refusal()):
            raise ValueError(refusal)

    def check_ids(self, hashes: np.ndarray) -> None:
        """Warn of repeated ids; in an evaluation they would count a row twice, or score it as another."""
        order = hashes.argsort(kind="stable")
        repeated = np.sort(order[1:][np.diff(hashes[order]) == 0]).tolist()
        if self.problems is not None:
            detail = "an earlier row has it"
            self.problems += [Problem(self.where(row), "repeated id", detail) for row in repeated]
        elif repeated:
            message = f"{self.where(repeated[0])}: the id is not unique ({len(repeated)} rows repeat an earlier one)"
            if self.strict:
                raise ValueError(message)
            log.warning(message)

    # -- examples -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.source}: row {index} of {len(self)}")
        for step in range(len(self)):
            example = self.at((index + step) % len(self))
            if example is not None:
                return example
        raise ValueError(f"{self.source}: no usable {self.task} row is left ({counted(self.skipped)})")

    def at(self, index: int, pictures: tuple[str, ...] = PICTURES) -> Example | None:
        if not self.found[index]:
            try:
                return self.load(index, pictures)
            except BadRow as error:
                self._skip(index, error)
        return None

    def texts(self) -> Iterator[str]:
        """All text a model sees of these rows, in shuffled order, so that a part of it is a fair sample."""
        for index in range(len(self)):
            example = self.at(permuted_index(0, index, len(self)), pictures=())
            if example is not None:
                yield from filter(None, (example.condition, *example.answers, example.caption))

    # -- what was left out ----------------------------------------------------------------------------------------

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self,)

    @property
    def total(self) -> int:
        """Rows there would be if all were good."""
        return len(self) + self._rejected.total()

    @property
    def skipped(self) -> Counter[str]:
        """How many rows have been found bad so far, by reason."""
        numbers = torch.bincount(self.found, minlength=len(REASONS) + 1)[1:].tolist()
        return self._rejected + Counter(dict(zip(REASONS, numbers, strict=True)))

    def refusal(self) -> str | None:
        """Why a run stops for what has been found so far, in one line."""
        if self.strict and self.problems:
            return str(self.problems[0])
        skipped = self.skipped
        allowed = max(FEW, int(self.max_skipped * self.total)) if self.max_skipped else 0
        if skipped.total() <= allowed:
            return None
        example = f"; for example {self._example}" if self._example else ""
        return (
            f"{self.source}: {skipped.total()} of {self.total} {self.task} rows are bad ({counted(skipped)}), "
            f"{allowed} may be: mend them (unifluid data check --list FILE names all), or raise "
            f"max_skipped={self.max_skipped:g} in init_args of the data set{example}"
        )

    def _skip(self, row: int, error: BadRow) -> None:
        self.found[row] = 1 + REASONS.index(error.reason)
        self._shown += 1
        self._note(Problem(self.where(row), error.reason, error.detail), int(self._shown))
        self._unchecked += 1
        if self.problems is None and self._unchecked >= self.max_skipped * len(self) / 100:  # it counts all rows
            self._unchecked = 0
            if refusal := self.refusal():
                raise ValueError(refusal)

    def _note(self, problem: Problem, number: int) -> None:
        """Problem `number` of its kind: listed, raised, or one of the first in the log."""
        self._example = self._example or str(problem)
        if self.problems is not None:
            self.problems.append(problem)
        elif self.strict:
            raise ValueError(str(problem))
        elif number <= SHOWN:
            log.warning("skipped %s", problem)


def counted(skipped: Counter[str]) -> str:
    """Counts in words, the most frequent first."""
    return ", ".join(f"{reason}: {count}" for reason, count in skipped.most_common()) or "none"
