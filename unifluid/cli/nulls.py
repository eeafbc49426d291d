"""`null` given by a flag, however deep.

jsonargparse hands values down to the parsers of nested classes as Python writes them: None became the word "None".
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jsonargparse._typehints
import jsonargparse._util


class _NestedArg(NamedTuple("NestedArg", [("key", str), ("val", Any)])):
    """jsonargparse's own, with nulls that read back from its string."""

    def __new__(cls, key: str, val: Any) -> _NestedArg:
        return super().__new__(cls, key, json.dumps(val) if _has_null(val) else val)


def _has_null(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_has_null, value.values() if isinstance(value, dict) else value))
    return value is None


def mend() -> None:
    """For all parsers of this process."""
    jsonargparse._util.NestedArg = jsonargparse._typehints.NestedArg = _NestedArg
