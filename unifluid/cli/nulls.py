"""`null`, which jsonargparse takes for a setting that is left out, whatever its type, and misreads in a flag.

It hands values down to the parsers of nested classes as Python writes them: None became the word "None".
"""

from __future__ import annotations

import inspect
import json
from importlib import import_module
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


def refuse(value: Any, where: str) -> None:
    """Raises ValueError naming the first setting of a class, however deep in `value`, that is null and must not be."""
    if isinstance(value, dict) and "class_path" in value:
        module, _, name = value["class_path"].rpartition(".")
        refuse_arguments(getattr(import_module(module), name), value.get("init_args") or {}, where)
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            refuse(inner, f"{where}.{key}")


def refuse_arguments(kind: Any, arguments: dict[str, Any], where: str) -> None:
    """The same of arguments for `kind`, a class or what makes one."""
    for name, value in arguments.items():
        if value is None and not _may_be_null(kind, name):
            raise ValueError(f"{where}.{name} must not be null: leave it out for its default")
        refuse(value, f"{where}.{name}")


def _may_be_null(kind: Any, name: str) -> bool:
    """By the annotation of the first class in line that names this argument."""
    for maker in getattr(kind, "__mro__", [kind]):
        try:
            parameter = inspect.signature(maker).parameters.get(name)
        except ValueError:  # written in C
            continue
        if parameter is not None:
            kinds = str(parameter.annotation)
            return parameter.default is None or any(word in kinds for word in ("None", "Optional", "Any", "_empty"))
    return True
