"""What a row must hold, whatever file it comes from: the fields of its task, with text that can be used.

Rows are plain dictionaries with the fields of `Example`; where their pictures are is the business of each format.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unifluid.sequence import Task

PICTURES = ("image", "target")
REQUIRED: dict[Task, tuple[str, ...]] = {
    "caption": ("image", "caption"),
    "answer": ("image", "question", "answers"),
    "generate": ("target", "prompt"),
    "edit": ("image", "target", "instruction"),
}
FIELDS = ("id", "meta", "image", "target", "caption", "question", "answers", "prompt", "instruction")
REASONS = ("malformed JSON", "unknown task", "bad text", *(f"{what} {f}" for what in ("no", "bad") for f in FIELDS))
MAX_CHARACTERS = 10_000  # longer text is cut here already: no tokenizer should meet a megabyte


class BadRow(ValueError):
    """A row that makes no example. `reason` is a short key for counting; the message says more."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Problem:
    """What is wrong with one row: file and place, a short key for counting, and what the message says more."""

    where: str
    reason: str
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}: {self.detail}"


def text_fields(row: dict[str, Any], task: Task, default_id: str) -> dict[str, Any]:
    """The fields of `Example` in `row`, but for its pictures.

    `id` may be left out; a caption's `prompt` and `meta` (an object, kept for evaluation, never seen by the model) are
    optional; other fields are ignored. Raises BadRow: bad text, "no FIELD" (missing, empty), "bad FIELD" (wrong type).
    """
    fields = {"id": _id(row, default_id), "task": task, "meta": typed(row, "meta", dict) or {}}
    for name in REQUIRED[task]:
        if name not in PICTURES:
            fields[name] = require(_answers(row, name) if name == "answers" else _text(row, name), name, task)
    if task == "caption":
        fields["prompt"] = _text(row, "prompt")
    return fields


def require(value: Any, name: str, task: Task) -> Any:
    """`value`, unless it is missing or empty."""
    if not value:
        raise BadRow(f"no {name}", f"a row of task {task} needs {name!r}")
    return value


def typed(row: dict[str, Any], name: str, kind: type) -> Any:
    value = row.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadRow(f"bad {name}", f"{name!r} must be {kind.__name__}, got {type(value).__name__}")
    return value


def picture_fields(row: dict[str, Any], task: Task, one: Callable[[Any, str], Any]) -> dict[str, tuple[Any, ...]]:
    """The pictures of `row`, each read by `one(value, name)`; `image` may be a list of several looked at together."""
    found = {}
    for name in REQUIRED[task]:
        if name in PICTURES:
            value = row.get(name)
            values = value if isinstance(value, list) and name == "image" else [value]
            found[name] = require(tuple(one(v, name) for v in values if v not in (None, "", b"")), name, task)
    return found


def _clean(text: str, name: str) -> str:
    if "\0" in text or re.search("[\ud800-\udfff]", text):
        raise BadRow("bad text", f"{name!r} holds a NUL or half a character (a lone surrogate)")
    return text.strip()[:MAX_CHARACTERS]


def _text(row: dict[str, Any], name: str) -> str | None:
    value = typed(row, name, str)
    return None if value is None else _clean(value, name)


def _id(row: dict[str, Any], default: str) -> str:
    value = row.get("id", default)
    if not isinstance(value, str | int):
        raise BadRow("bad id", f"'id' must be text, got {type(value).__name__}")
    return _clean(str(value), "id")


def _answers(row: dict[str, Any], name: str) -> tuple[str, ...]:
    values = typed(row, name, list) or []
    if not all(isinstance(value, str) for value in values):
        raise BadRow(f"bad {name}", f"{name!r} must be a list of texts")
    return tuple(text for value in values if (text := _clean(value, name)))
