"""One's own data: a folder of pictures and of train.jsonl, test.jsonl, … in the schema of `datamodules.jsonl`.

{"id": "1", "task": "caption", "image": "images/cat.png", "prompt": "caption en", "caption": "a cat on a mat"}
{"id": "2", "task": "answer", "image": "images/cat.png", "question": "what is on the mat?", "answers": ["a cat"]}
{"id": "3", "task": "generate", "target": "images/cat.png", "prompt": "a cat on a mat"}
{"id": "4", "task": "edit", "image": "images/cat.png", "target": "images/dog.png", "instruction": "make it a dog"}
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.base import ExampleDataset
from datamodules.images import REASONS, BadImage, read_image
from datamodules.jsonl import BadRow, parse
from unifluid.randomness import permuted_index
from unifluid.sequence import TASKS, Example, Task

log = logging.getLogger(__name__)

PICTURES = ("image", "target")
SHOWN = 5  # bad rows named in the log


class Folder(ExampleDataset):
    """The rows of one task in PATH/{split}.jsonl: a map from 0 … len - 1 to `Example`s.

    The file is read once, for the byte offsets of its good lines; lines and pictures are read when asked for. Lines
    that make no example are left out; a row whose picture is bad is replaced by the next good row, always the same.
    Both are counted in `skipped` by reason, the first five are named in the log.

    Raises ValueError, in one line naming file and line, where more than `max_skipped` (a share) of the rows are bad or
    none is left, and, if `strict` (evaluation), at the first bad row, missing picture or repeated id.
    """

    def __init__(
        self, path: str | Path, task: Task, split: str = "train", max_skipped: float = 0.01, strict: bool = False
    ):
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        self.path, self.task, self.split = Path(path), task, split
        self.max_skipped, self.strict = max_skipped, strict
        self.file = self.path / f"{split}.jsonl"
        if not self.file.is_file():
            found = ", ".join(sorted(p.name for p in self.path.glob("*.jsonl"))) or "no .jsonl file"
            raise ValueError(f"{self.file}: no such file; {self.path} holds {found}")
        self._offsets, self._lines = array("q"), array("q")
        self._bad_lines: Counter[str] = Counter()
        self._index()
        # 0, or 1 + the reason its picture is bad; shared, so that what a loader worker finds is counted here and once.
        self._bad_pictures = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Example:
        """Example `index`, or, where its picture is bad, the next good one."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.file}: row {index} of {len(self)}")
        for step in range(len(self)):
            row = (index + step) % len(self)
            if not self._bad_pictures[row]:
                try:
                    return self._load(row)
                except BadImage as error:
                    self._skip(row, error)
        raise ValueError(f"{self.file}: no {self.task} row has a usable picture ({_counts(self.skipped)})")

    @property
    def skipped(self) -> Counter[str]:
        """How many rows have been found bad so far, by reason."""
        found = torch.bincount(self._bad_pictures, minlength=len(REASONS) + 1)[1:].tolist()
        return self._bad_lines + Counter(dict(zip(REASONS, found, strict=True)))

    def texts(self) -> Iterator[str]:
        """All text a model sees of these rows, in shuffled order, so that a part of it is a fair sample."""
        for index in range(len(self)):
            fields = self._fields(permuted_index(0, index, len(self)))
            example = Example(**{**fields, "image": None, "target": None})
            yield from filter(None, (example.condition, *example.answers, example.caption))

    def _index(self) -> None:
        """Find the good lines of the task; name, count and limit the bad ones."""
        offset, first, ids = 0, "", array("q")
        with self.file.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    fields = parse(line, self.task, f"{self.split}:{number}") if line.strip() else None
                except BadRow as error:
                    first = first or f"{self.file}:{number}: {error}"
                    self._count_line(number, error)
                else:
                    if fields:
                        self._check_pictures(number, fields)
                        self._offsets.append(offset)
                        self._lines.append(number)
                        ids.append(hash(fields["id"]))
                offset += len(line)
        if not len(self):
            raise ValueError(f"{self.file}: no usable {self.task} row (bad lines: {_counts(self._bad_lines)})")
        self._limit(self._bad_lines, first)
        self._check_ids(np.frombuffer(ids, dtype=np.int64))

    def _count_line(self, number: int, error: BadRow) -> None:
        where = f"{self.file}:{number}: {error}"
        if self.strict:
            raise ValueError(where) from error
        self._bad_lines[error.reason] += 1
        if self._bad_lines.total() <= SHOWN:
            log.warning("skipped %s", where)

    def _check_pictures(self, number: int, fields: dict[str, Any]) -> None:
        """An evaluation stops for a missing picture now, not after an hour."""
        if self.strict:
            for path in (path for name in PICTURES for path in fields.get(name, ())):
                if not (self.path / path).is_file():
                    raise ValueError(f"{self.file}:{number} (id {fields['id']}): missing file: {self.path / path}")

    def _check_ids(self, hashes: np.ndarray) -> None:
        """Warn of repeated ids; in an evaluation they would count a row twice, or score it as another."""
        order = hashes.argsort(kind="stable")
        repeated = order[1:][np.diff(hashes[order]) == 0]
        if len(repeated):
            row = int(repeated.min())
            message = f"{self._where(row)}: the id is not unique ({len(repeated)} rows repeat an earlier one)"
            if self.strict:
                raise ValueError(message)
            log.warning(message)

    def _skip(self, row: int, error: BadImage) -> None:
        where = f"{self._where(row)}: {error}"
        if self.strict:
            raise ValueError(where) from error
        self._bad_pictures[row] = 1 + REASONS.index(error.reason)
        if self._bad_pictures.count_nonzero() <= SHOWN:
            log.warning("skipped %s", where)
        self._limit(self.skipped, where)

    def _limit(self, skipped: Counter[str], example: str) -> None:
        bad, rows = skipped.total(), len(self) + self._bad_lines.total()
        if bad > self.max_skipped * rows:
            raise ValueError(
                f"{self.file}: {bad} of {rows} {self.task} rows are bad ({_counts(skipped)}), more than "
                f"max_skipped={self.max_skipped:g} allows; for example {example}"
            )

    def _load(self, row: int) -> Example:
        fields = self._fields(row)
        for name in PICTURES:
            if name in fields:
                read = tuple(read_image(self.path / path) for path in fields[name])
                fields[name] = read if len(read) > 1 else read[0]
        return Example(**fields)

    def _fields(self, row: int) -> dict[str, Any]:
        with self.file.open("rb") as file:  # opened anew: workers that share a handle would move it under each other
            file.seek(self._offsets[row])
            return parse(file.readline(), self.task, f"{self.split}:{self._lines[row]}")

    def _where(self, row: int) -> str:
        return f"{self.file}:{self._lines[row]} (id {self._fields(row)['id']})"


def _counts(skipped: Counter[str]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in skipped.most_common()) or "none"
