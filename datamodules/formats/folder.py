"""One's own data: a folder of pictures and of train.jsonl, test.jsonl, … in the schema of `datamodules.formats.jsonl`.

{"id": "1", "task": "caption", "image": "images/cat.png", "prompt": "caption en", "caption": "a cat on a mat"}
{"id": "2", "task": "answer", "image": "images/cat.png", "question": "what is on the mat?", "answers": ["a cat"]}
{"id": "3", "task": "generate", "target": "images/cat.png", "prompt": "a cat on a mat"}
{"id": "4", "task": "edit", "image": "images/cat.png", "target": "images/dog.png", "instruction": "make it a dog"}
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.formats.files import FileRows
from datamodules.formats.jsonl import parse
from datamodules.formats.rows import BadRow
from unifluid.sequence import Task


class Folder(FileRows):
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
        self.folder, self.split = Path(path), split
        self.file = self.folder / f"{split}.jsonl"
        super().__init__(str(self.file), task, max_skipped, strict)
        if not self.file.is_file():
            found = ", ".join(sorted(p.name for p in self.folder.glob("*.jsonl"))) or "no .jsonl file"
            raise ValueError(f"{self.file}: no such file; {self.folder} holds {found}")
        self._offsets, self._lines = array("q"), array("q")
        self._index()

    def fields(self, row: int) -> dict[str, Any]:
        with self.file.open("rb") as file:  # opened anew: workers that share a handle would move it under each other
            file.seek(self._offsets[row])
            return parse(file.readline(), self.task, f"{self.split}:{self._lines[row]}")

    def where(self, row: int) -> str:
        return f"{self.file}:{self._lines[row]} (id {self.fields(row)['id']})"

    def _index(self) -> None:
        """Find the good lines of the task."""
        offset, ids = 0, array("q")
        with self.file.open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{self.file}:{number}"
                try:
                    fields = parse(line, self.task, f"{self.split}:{number}") if line.strip() else None
                except BadRow as error:
                    self.reject(where, error)
                else:
                    if fields:
                        self.check_pictures(where, fields)
                        self._offsets.append(offset)
                        self._lines.append(number)
                        ids.append(hash(fields["id"]))
                offset += len(line)
        self.begin(len(ids))
        self.check_ids(np.frombuffer(ids, dtype=np.int64))
