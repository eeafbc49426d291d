"""From exceptions to the one line a user reads."""

from __future__ import annotations

import argparse
import errno
import re
from typing import NoReturn

# anything else is a bug and keeps its traceback
MISTAKES = (ValueError, OSError, ModuleNotFoundError, argparse.ArgumentError)

# jsonargparse reports a tree: where it is (keys), every alternative it tried, the value it was given. The leaves that
# say something are kept, in plainer words.
KEY = re.compile(r'^Parser key "(.+?)":')
SILENT = re.compile(
    r"^(Does not validate against any|Subtypes: |Errors:|Given value|Problem with given class_path '\S+':$"
    r"|Expected a <class 'NoneType'>|Expected a path but "
    r"|Subclass types expect one of:|a class path \(str\)$|a dict (with|without) (class_path|parameters) )"
)
PLAINER = (
    (r"^Type \S*Callable\[.*?\] expects a function or a callable class:\s*", ""),
    (r"\.? Got value: Namespace\(.*", ""),
    (r"^Expected an? (?:<class '([^']+)'>|typing\.(\S.*?))\. Got value: (.*)", r"expected \1\2, got \3"),
    (r"^Expected an? (?:<class '([^']+)'>|typing\.(\S.*))$", r"expected \1\2"),
    (r"^Expected a dot import path string: (.*)", r"\1 is neither a class path nor a known class"),
    (
        r"^Importing '((\w+)\S*)' is not allowed.*",
        r"\1 is not in a trusted package; if you trust it: --allow-module \2",
    ),
    (r"^the following arguments are required: ", "missing: "),
    (r"\b(?:fit|validate|test|predict)\.(model|data)\b", r"--\1"),
    (r"^Problems parsing config: ", ""),
)
MARKED = re.compile(r'(Parser key ".+?":)')


class Parser(argparse.ArgumentParser):
    """argparse whose errors are raised, so that they end as one line like all others."""

    def __init__(self, command: str, description: str):
        super().__init__(
            prog=f"unifluid {command}",
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise argparse.ArgumentError(None, f"{message} (see {self.prog} --help)")


def one_line(error: Exception) -> str | None:
    """What to tell the user about `error`; None where it is no mistake of theirs."""
    if not isinstance(error, MISTAKES):
        return None
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # writing to an open file does not say which
        return f"{error.strerror}: free some space, then run the same command again"
    return condense(str(error)) or type(error).__name__


def condense(message: str) -> str:
    """A message of one or many lines -> one: the dotted key it is about, if any, and what is wrong."""
    keys: list[str] = []
    reasons: list[str] = []
    for line in MARKED.sub(r"\n\1\n", message).splitlines():
        line = line.strip().removeprefix("- ")
        if key := KEY.match(line):
            keys.append(key[1])
        elif line and not SILENT.match(line):
            for pattern, plainer in PLAINER:
                line = re.sub(pattern, plainer, line)
            reasons.append(line)
    where = f"{'.'.join(keys)}: " if keys else ""
    return where + "; ".join(reason for reason in dict.fromkeys(reasons) if reason)


def count(text: str) -> int:
    """Type of an argument: a whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, got {text!r}")
    return int(text)
