"""The right name for one that is nearly right: "did you mean …?"."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

NO_CLASS = re.compile(r"module '(\S+)' has no attribute '(\w+)'")
OF_FACTORY = re.compile(r"Got value: Namespace\(class_path='(\S+?)'")
NO_SETTING = re.compile(r"Option '(\w+)' is not accepted")
NO_FLAG = re.compile(r"unrecognized arguments: (--[\w.-]+)")
NO_KEY = re.compile(
    r"^(?:Problems parsing config: )?(?:(?:Group '(\w+)'|Subcommand '\w+') does not accept option|Option) '([\w.]+)'"
)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """To be appended to a message that refuses `name`; empty where nothing is near."""
    known = list(known)
    longer = [other for other in known if name and other.startswith(name)]  # of which it is the beginning
    found = difflib.get_close_matches(name, longer or known, n=1, cutoff=0.0 if longer else 0.6)
    return f"; did you mean {found[0]}?" if found else ""


def flag_hint(message: str, flags: Iterable[str]) -> str:
    """For a parser's message that refuses a flag, or a key of a file, whose names are those of the `flags`."""
    flags = [flag for flag in flags if not flag.endswith(".help")]
    if found := NO_FLAG.search(message):
        return did_you_mean(found[1], flags)
    if found := NO_KEY.search(message):
        return did_you_mean(".".join(filter(None, found.groups())), [flag.removeprefix("--") for flag in flags])
    return ""


def hint(reason: str, class_path: str | None) -> str:
    """For a reason that jsonargparse gives: a class its module lacks, or a setting that the class does not have."""
    if found := NO_CLASS.search(reason):
        module, name = found.groups()
        package = importlib.import_module(module)
        classes = getattr(package, "__all__", None) or dir(package)
        return did_you_mean(name, classes)
    if found := NO_SETTING.search(reason):
        factory = OF_FACTORY.search(reason)
        path = factory[1] if factory else class_path
        if path is not None:
            module, _, name = path.rpartition(".")
            return did_you_mean(found[1], inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    return ""
