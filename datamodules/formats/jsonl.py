"""The kit's own schema: one JSON object a line, with the fields of `Example`.

    {"id": "1", "task": "caption", "image": "images/cat.png", "prompt": "caption en", "caption": "a cat on a mat"}
    {"id": "2", "task": "answer", "image": "images/cat.png", "question": "what is on the mat?", "answers": ["a cat"]}
    {"id": "3", "task": "generate", "target": "images/cat.png", "prompt": "a cat on a mat"}
    {"id": "4", "task": "edit", "image": "images/cat.png", "target": "images/dog.png", "instruction": "make it a dog"}

Pictures are paths relative to the folder of the file. `id` may be left out; `image` may be a list where several
pictures are looked at; a caption's `prompt` and `meta` (an object, kept for evaluation, never seen by the model) are
optional; other fields are ignored. Text is UTF-8.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datamodules.formats.rows import BadRow, picture_fields, text_fields
from unifluid import lines
from unifluid.sequence import TASKS, Task


def decode(data: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8. Raises BadRow."""
    try:
        row = json.loads(lines.decode(data))
    except UnicodeDecodeError as error:
        raise BadRow("bad text", f"not UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed JSON", str(error)) from error
    if not isinstance(row, dict):
        raise BadRow("malformed JSON", f"expected an object, got {type(row).__name__}")
    return row


def parse(line: bytes, task: Task, default_id: str) -> dict[str, Any] | None:
    """The fields of `Example` on one line, pictures as tuples of paths; None if the row is of another task.

    Raises BadRow: malformed JSON, bad text, unknown task, "no FIELD" (missing or empty), "bad FIELD" (wrong type, or a
    path that leaves the folder).
    """
    row = decode(line)
    if row.get("task") not in TASKS:
        raise BadRow("unknown task", f"{row.get('task')!r} is none of {', '.join(TASKS)}")
    return check(row, task, default_id) if row["task"] == task else None


def check(row: dict[str, Any], task: Task, default_id: str) -> dict[str, Any]:
    """The fields of `Example` in `row`, pictures as tuples of paths. Raises BadRow."""
    return {**text_fields(row, task, default_id), **picture_fields(row, task, inside)}


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write `rows` a line each, under another name first: the file is whole or not there at all."""
    partial = Path(f"{path}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as one JSON file, whole or not at all."""
    partial = Path(f"{path}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)


def inside(path: Any, name: str) -> str:
    """`path`, if it stays inside the folder. Both separators count, so that a folder means the same everywhere."""
    if not isinstance(path, str):
        raise BadRow(f"bad {name}", f"{name!r} must be str, got {type(path).__name__}")
    if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or "\0" in path:
        raise BadRow(f"bad {name}", f"{path!r} must be a path relative to the folder, without '..'")
    return path
