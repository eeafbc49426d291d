"""Files of results, as COCO's and VQA's servers take them: a JSON list of objects, one an image or question."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unifluid.evaluation.scores import Score


def read_results(path: str, key: str, value: str) -> dict[str, str]:
    """{id: text} of a results file. Raises ValueError naming file and id for what is malformed or comes twice."""
    from datamodules.formats.files import read_json

    expected, found = f'a list of {{"{key}": …, "{value}": text}}', dict[str, str]()
    for number, entry in enumerate(read_json(path, list, "results")):
        if not isinstance(entry, dict) or key not in entry or not isinstance(entry.get(value), str):
            raise ValueError(f"{path}: entry {number} is {str(entry):.80}, expected {expected}")
        if str(entry[key]) in found:
            raise ValueError(f"{path}: {key} {entry[key]} comes twice")
        found[str(entry[key])] = entry[value]
    return found


def check_ids(results: Mapping[str, Any], references: Mapping[str, Any], path: str, key: str) -> None:
    """Nothing is skipped: raises ValueError where an item has no result, or a result belongs to no item."""
    missing, unknown = references.keys() - results.keys(), results.keys() - references.keys()
    if missing:
        raise ValueError(f"{path}: {len(missing)} of {len(references)} {key}s have no result, first {min(missing)}")
    if unknown:
        raise ValueError(f"{path}: {len(unknown)} {key}s are none of the references', first {min(unknown)}")


def report(scores: Mapping[str, Score], n_expected: int, about: dict[str, Any], out: str | None) -> None:
    """To the terminal and, where `out` is given, as JSON."""
    for name, score in scores.items():
        interval = "" if score.low is None else f"  (95 %: {score.low:.4f} – {score.high:.4f})"
        print(f"{name:14} {score.value:.4f}{interval}")
    print(f"n_expected {n_expected}, n_scored {n_expected}")
    if out:
        record = {name: score.value for name, score in scores.items()}
        keep(out, record | {"n_expected": n_expected, "n_scored": n_expected, **about})


def check_writable(*paths: str | None) -> None:
    """Raises ValueError where a file that is asked for has no folder: before hours of work, not after them."""
    for path in filter(None, paths):
        if not Path(path).absolute().parent.is_dir() or Path(path).is_dir():
            raise ValueError(f"{path}: cannot be written, there is no such folder, or it is one")


def keep(path: str, record: Mapping[str, Any]) -> None:
    """Write scores as JSON, whole or not at all."""
    partial = Path(f"{path}.partial")
    partial.write_text(json.dumps(record, indent=2), encoding="utf-8")
    os.replace(partial, path)
