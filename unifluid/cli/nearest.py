"""The nearest right name for what argparse and jsonargparse refuse."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable

from unifluid.nearest import did_you_mean

NO_CLASS = re.compile(r"module '(\S+)' has no attribute '(\w+)'")
OF_FACTORY = re.compile(r"Got value: Namespace\(class_path='(\S+?)'")
NO_SETTING = re.compile(r"Option '([\w.]+)' is not accepted")
UNNAMED = ("lightning.LightningModule", "lightning.LightningDataModule")  # stand in where settings name no class
NO_FLAG = re.compile(r"unrecognized arguments: (--[\w.-]+)")
NO_KEY = re.compile(
    r"^(?:Problems parsing config: )?(?:(?:Group '(\w+)'|Subcommand '\w+') does not accept option|Option) '([\w.]+)'"
)


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
        if path in UNNAMED:
            return ": no class is named for it; an overlay comes after its run, such as --config experiments/demo.yaml"
        if path is not None:
            module, _, name = path.rpartition(".")
            return did_you_mean(
                found[1].partition(".")[0], inspect.signature(getattr(importlib.import_module(module), name)).parameters
            )
    return ""
