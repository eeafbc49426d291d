"""From exceptions to the one line a user reads."""

from __future__ import annotations

import argparse
import errno
import re
import traceback
from typing import NoReturn

from unifluid.cli.nearest import flag_hint, hint

# anything else is a bug and keeps its traceback
MISTAKES = (ValueError, OSError, ModuleNotFoundError, argparse.ArgumentError)

# jsonargparse reports a tree: where it is (keys), every alternative it tried, the value it was given. The leaves that
# say something are kept, in plainer words.
CLASS = re.compile(r"^Problem with given class_path '(\S+)':$")
KEY = re.compile(r'^Parser key "(.+?)":')
SILENT = re.compile(
    r"^(Does not validate against any|Subtypes: |Errors:|Given value"
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
    (r"^Group '(\w+)' does not accept option '(\w+)'", r"no setting \1.\2"),
    (r"^Subcommand '\w+' does not accept option '([\w.]+)'", r"no setting \1"),
    (r"^the following arguments are required: ", "missing: "),
    (r"\b(?:fit|validate|test|predict)\.(model|data)\b", r"--\1"),
    (r"^Problems parsing config: ", ""),
)
MARKED = re.compile(r'(Parser key ".+?":)')


NO_MEMORY = re.compile(  # the latter ones: torch on sizes that no machine could count
    r"(can't allocate|not enough) memory|out of memory|overflow when unpacking long|storage size calculation overflowed"
    r"|integer multiplication overflow|int too big to convert",
    re.IGNORECASE,
)
LESS_MEMORY = (
    "in fit raise trainer.accumulate_grad_batches, which changes no result, or lower the rows of data.streams, "
    "model.copies, row_length or the sizes of the parts; elsewhere lower --batch-size, in scores sampling.batch_size"
)
READERS = ("lightning", "lightning_fabric", "lightning_utilities", "jsonargparse")  # of settings; they check them


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the defaults that say something: where an option has none, its help says what holds."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or action.default is False or action.default == []
        return action.help if silent else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are raised, so that they end as one line like all others."""

    def __init__(self, command: str, description: str):
        super().__init__(
            prog=f"unifluid {command}",
            description=description,
            formatter_class=Formatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        near, more = flag_hint(message, self._option_string_actions), f"(see {self.prog} --help)"
        # argparse may hand the message of the error raised here to this method once more.
        raise argparse.ArgumentError(None, message if message.endswith(more) else f"{message}{near} {more}")


def one_line(error: Exception) -> str | None:
    """What to tell the user about `error`; None where it is no mistake of theirs."""
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or NO_MEMORY.search(str(error)):
        size = re.search(r"allocate ([\d.]+ ?\w+)", str(error))
        return f"out of memory{f' ({size[0]})' if size else ''}: {LESS_MEMORY}"
    if not isinstance(error, MISTAKES):
        return _of_settings(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # writing to an open file does not say which
        return f"{error.strerror}: free some space, then run the same command again"
    return condense(str(error)) or type(error).__name__


def _of_settings(error: Exception) -> str | None:
    """An error of any kind that comes from settings: raised while something was built from its arguments, or by the
    libraries that read them."""
    if type(error).__name__ == "MisconfigurationException":  # Lightning's word to its users
        return condense(str(error))
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    reason = f"{condense(str(error))} ({type(error).__name__}; UNIFLUID_TRACEBACK=1 shows where)"
    for frame in reversed(frames):
        built = frame.f_locals.get("self")
        if frame.f_code.co_name == "__init__" and "init_args" in getattr(built, "__dict__", {}):
            return f"{type(built).__name__} cannot be built from these settings: {reason}"
    raised_by = frames[-1].f_globals["__name__"].partition(".")[0] if frames else ""
    return reason if raised_by in READERS else None


def condense(message: str) -> str:
    """A message of one or many lines -> one: the dotted key it is about, if any, and what is wrong."""
    keys: list[str] = []
    reasons: list[str] = []
    class_path = None
    for line in MARKED.sub(r"\n\1\n", message).splitlines():
        line = line.strip().removeprefix("- ")
        if key := KEY.match(line):
            keys.append(key[1])
        elif given := CLASS.match(line):
            class_path = given[1]
        elif line and not SILENT.match(line):
            near = hint(line, class_path)
            for pattern, plainer in PLAINER:
                line = re.sub(pattern, plainer, line)
            reasons.append(line + near)
    if len(reasons) > 1:  # one of a union's other kinds, which was not meant
        reasons = [reason for reason in reasons if not reason.startswith("Not a valid subclass of")] or reasons
    where = f"{'.'.join(keys)}: " if keys else ""
    return where + "; ".join(reason for reason in dict.fromkeys(reasons) if reason)


def count(text: str) -> int:
    """Type of an argument: a whole number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1, got {text!r}")
    return int(text)
