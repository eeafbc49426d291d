"""Outcomes of an evaluation on disk, a file for each block of items, until the evaluation is complete.

An evaluation that is interrupted goes on from these files, and ranks exchange outcomes through them: the folder must be
one that all of them see. What is stored under one key was made by the same code, weights, settings and files of data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unifluid.configs import describe, plain
from unifluid.interfaces import Recorded
from unifluid.storage import load, save

Outcome = dict[str, Any]  # plain data and tensors
LONGEST_PATH = 4096  # characters: longer texts are none


class Blocks:
    """The blocks stored so far under `key`, in a folder below `parent`."""

    def __init__(self, parent: Path, name: str, key: dict[str, Any]):
        self.folder = parent / f"{file_name(name)}-{digest(key)}"

    def get(self, block: int) -> list[Outcome] | None:
        """The outcomes of a block; None where it is missing or damaged, and must be made again."""
        path = self._path(block)
        if not path.is_file():
            return None
        try:
            return load(path)["outcomes"]
        except ValueError:
            path.unlink()
            return None

    def put(self, block: int, outcomes: list[Outcome]) -> None:
        save({"outcomes": outcomes}, self._path(block))

    def all(self, blocks: int) -> list[Outcome]:
        """All outcomes, in item order. Raises ValueError where a block is missing."""
        found: list[Outcome] = []
        for block in range(blocks):
            outcomes = self.get(block)
            if outcomes is None:
                raise ValueError(f"{self._path(block)} is missing: all nodes must see trainer.default_root_dir")
            found += outcomes
        return found

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, block: int) -> Path:
        return self.folder / f"{block:06d}.pt"


def grouped(outcomes: list[Outcome], group: str, value: str) -> dict[str, list[Any]]:
    """The field `value` of the outcomes by what their field `group` says, in order of first appearance."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome[group]].append(outcome[value])
    return groups


def file_name(prefix: str) -> str:
    """What files of scores under `prefix` are called."""
    return prefix.replace("/", "-")


def digest(value: Any) -> str:
    """A short hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def fingerprint(module: nn.Module) -> str:
    """A hash of all parameters and buffers of `module`, made where they are."""
    tensors = {name: tensor for name, tensor in module.state_dict().items() if tensor.numel()}
    hashes = {name: torch.hash_tensor(tensor).view(torch.int64) for name, tensor in tensors.items()}
    return digest({name: value.item() for name, value in hashes.items()})


def settings(part: Any) -> Any:
    """What `part` was built with, as plain data; of other objects than the kit's and of functions just a name."""
    if dataclasses.is_dataclass(part):
        return dataclasses.asdict(part)
    if isinstance(part, list | tuple):
        return [settings(value) for value in part]
    try:
        return describe(part) if isinstance(part, Recorded) else plain(part, "")
    except ValueError:
        return f"{type(part).__module__}.{type(part).__qualname__}"


def contents(about: Any) -> dict[str, str]:
    """The sha256 of every file that settings name: a file that has changed is other data under the same name."""
    if isinstance(about, dict):
        about = list(about.values())
    if isinstance(about, list):
        return {path: found for value in about for path, found in contents(value).items()}
    if not isinstance(about, str) or not about or len(about) > LONGEST_PATH or not os.path.isfile(about):
        return {}
    status = os.stat(about)
    return {about: _sha256(about, status.st_size, status.st_mtime_ns)}


@cache
def _sha256(path: str, size: int, changed: int) -> str:
    """Read once for as long as the file stays as it is."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
