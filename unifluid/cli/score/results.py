"""Files of results, as COCO's and VQA's servers take them: a JSON list of objects, one an image or question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unifluid.evaluation.scores import Score


def read_results(path: str, key: str, value: str) -> dict[str, str]:
    """{id: text} of a results file. Raises ValueError naming file and id for what is malformed or comes twice."""
    try:
        content = json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of results") from error
    except (ValueError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({error})") from error
    expected = f'a list of {{"{key}": …, "{value}": text}}'
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected {expected}, got {type(content).__name__}")
    found: dict[str, str] = {}
    for number, entry in enumerate(content):
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
        record |= {"n_expected": n_expected, "n_scored": n_expected, **about}
        Path(out).write_text(json.dumps(record, indent=2), encoding="utf-8")
