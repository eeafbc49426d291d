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

import codecs
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unifluid.sequence import TASKS, Task

REQUIRED: dict[Task, tuple[str, ...]] = {
    "caption": ("image", "caption"),
    "answer": ("image", "question", "answers"),
    "generate": ("target", "prompt"),
    "edit": ("image", "target", "instruction"),
}
MAX_CHARACTERS = 10_000  # longer text is cut here already: no tokenizer should meet a megabyte


class BadRow(ValueError):
    """A line that makes no example. `reason` is a short key for counting; the message says more."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def parse(line: bytes, task: Task, default_id: str) -> dict[str, Any] | None:
    """The fields of `Example` on one line, pictures as tuples of paths; None if the row is of another task.

    Raises BadRow: malformed JSON, bad text, unknown task, "no FIELD" (missing or empty), "bad FIELD" (wrong type, or a
    path that leaves the folder).
    """
    try:
        row = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        raise BadRow("bad text", f"not UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed JSON", str(error)) from error
    if not isinstance(row, dict):
        raise BadRow("malformed JSON", f"expected an object, got {type(row).__name__}")
    if row.get("task") not in TASKS:
        raise BadRow("unknown task", f"{row.get('task')!r} is none of {', '.join(TASKS)}")
    if row["task"] != task:
        return None
    fields = {"id": _id(row, default_id), "task": task, "meta": _typed(row, "meta", dict) or {}}
    for name in REQUIRED[task]:
        fields[name] = READERS[name](row, name)
        if not fields[name]:
            raise BadRow(f"no {name}", f"a row of task {task} needs {name!r}")
    if task == "caption":
        fields["prompt"] = _text(row, "prompt")
    return fields


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write `rows` a line each, under another name first: the file is whole or not there at all."""
    partial = Path(f"{path}.partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(partial, path)


def _typed(row: dict[str, Any], name: str, kind: type) -> Any:
    value = row.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadRow(f"bad {name}", f"{name!r} must be {kind.__name__}, got {type(value).__name__}")
    return value


def _clean(text: str, name: str) -> str:
    if "\0" in text or re.search("[\ud800-\udfff]", text):
        raise BadRow("bad text", f"{name!r} holds a NUL or half a character (a lone surrogate)")
    return text.strip()[:MAX_CHARACTERS]


def _text(row: dict[str, Any], name: str) -> str | None:
    value = _typed(row, name, str)
    return None if value is None else _clean(value, name)


def _id(row: dict[str, Any], default: str) -> str:
    value = row.get("id", default)
    if not isinstance(value, str | int):
        raise BadRow("bad id", f"'id' must be text, got {type(value).__name__}")
    return _clean(str(value), "id")


def _answers(row: dict[str, Any], name: str) -> tuple[str, ...]:
    values = _typed(row, name, list) or []
    if not all(isinstance(value, str) for value in values):
        raise BadRow(f"bad {name}", f"{name!r} must be a list of texts")
    return tuple(text for value in values if (text := _clean(value, name)))


def _picture(row: dict[str, Any], name: str) -> tuple[str, ...]:
    value = _typed(row, name, str)
    return (_inside(value, name),) if value else ()


def _pictures(row: dict[str, Any], name: str) -> tuple[str, ...]:
    values = row.get(name)
    if not isinstance(values, list):
        return _picture(row, name)
    return tuple(path for value in values for path in _picture({name: value}, name))


def _inside(path: str, name: str) -> str:
    """`path`, if it stays inside the folder. Both separators count, so that a folder means the same everywhere."""
    if path.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", path) or "\0" in path:
        raise BadRow(f"bad {name}", f"{path!r} must be a path relative to the folder, without '..'")
    return path


READERS = {
    "image": _pictures,
    "target": _picture,
    "answers": _answers,
    "caption": _text,
    "question": _text,
    "prompt": _text,
    "instruction": _text,
}
