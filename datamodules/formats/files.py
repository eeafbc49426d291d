"""Rows of the kit's schema whose pictures are files: from a JSONL file, or from annotations kept in memory."""

from __future__ import annotations

import json
from abc import abstractmethod
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.jsonl import check
from datamodules.formats.rows import PICTURES, BadRow
from datamodules.formats.skipping import Skipping
from datamodules.images import read_image
from unifluid.sequence import Example, Task


class FileRows(Skipping):
    """Pictures are paths relative to `folder`."""

    folder: Path

    @abstractmethod
    def fields(self, row: int) -> dict[str, Any]:
        """The fields of `Example` in row `row`, pictures as tuples of paths. Raises BadRow."""

    def load(self, row: int, pictures: tuple[str, ...]) -> Example:
        fields = self.fields(row)
        for name in PICTURES:
            paths = fields.pop(name, ())
            if paths and name in pictures:
                read = tuple(read_image(self.folder / path) for path in paths)
                fields[name] = read if len(read) > 1 else read[0]
        return Example(**fields)

    def check_pictures(self, where: str, fields: dict[str, Any]) -> None:
        """An evaluation stops for a missing picture now, not after an hour."""
        if self.strict and self.problems is None:
            for path in (path for name in PICTURES for path in fields.get(name, ())):
                if not (self.folder / path).is_file():
                    raise ValueError(f"{where} (id {fields['id']}): missing file: {self.folder / path}")


class Annotations(FileRows):
    """Rows that a subclass reads from annotations in another format, all at once.

    They are kept as one block of bytes: a million Python objects would be copied into every loader worker.
    """

    def __init__(self, source: str | Path, folder: str | Path, task: Task, max_skipped: float, strict: bool):
        super().__init__(str(source), task, max_skipped, strict)
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"{folder}: no such folder of pictures")

    def keep(self, rows: Iterable[dict[str, Any]]) -> None:
        """The rows of this data set, each with an id; called once, at the end of `__init__`."""
        block, ends, ids = bytearray(), array("q", [0]), array("q")
        for row in rows:
            where = f"{self.source} (id {row['id']})"
            try:
                fields = check(row, self.task, "")
            except BadRow as error:
                self.reject(where, error)
                continue
            self.check_pictures(where, fields)
            block += json.dumps(row).encode()
            ends.append(len(block))
            ids.append(hash(fields["id"]))
        self._block, self._ends = bytes(block), ends
        self.begin(len(ids))
        self.check_ids(np.frombuffer(ids, dtype=np.int64))

    def fields(self, row: int) -> dict[str, Any]:
        return check(self._row(row), self.task, "")

    def where(self, row: int) -> str:
        return f"{self.source} (id {self._row(row)['id']})"

    def _row(self, row: int) -> dict[str, Any]:
        return json.loads(self._block[self._ends[row] : self._ends[row + 1]])


def read_json(path: str | Path, expected: type | tuple[type, ...] = dict, what: str = "annotations") -> Any:
    """The object, or the list where that is `expected`, in a JSON file of `what`. Raises ValueError naming the file."""
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of {what}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(content, expected):
        wanted = "a JSON list" if expected is list else "a JSON object"
        raise ValueError(f"{path}: expected {wanted}, got {type(content).__name__}")
    return content
