"""score average: the paper's averages over captioning and question-answering tasks, from several runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from unifluid.cli.errors import Parser
from unifluid.evaluation.averages import AVERAGES, average


def run(args: list[str]) -> None:
    parser = Parser("score average", "Averages over the downstream tasks of experiments/transfer, from scores.json.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, or files like their scores.json")
    parser.add_argument("--only", choices=tuple(AVERAGES), help="one of the averages (default: both)")
    options = parser.parse_args(args)
    scores: dict[str, float] = {}
    for folder in options.runs:
        for name, value in _scores(folder).items():
            if scores.setdefault(name, value) != value and any(name in keys for keys in AVERAGES.values()):
                raise ValueError(
                    f"{folder}: {name} is {value} here but {scores[name]} in a run before: name one of them"
                )
    for name in [options.only] if options.only else AVERAGES:
        print(f"{name:8} {average(scores, name):.2f}  (mean of {len(AVERAGES[name])})")


def _scores(folder: str) -> dict[str, Any]:
    from datamodules.formats.files import read_json

    path = Path(folder) / "scores.json" if Path(folder).is_dir() else Path(folder)
    found = read_json(path, what="scores")
    for name in (name for names in AVERAGES.values() for name in names if name in found):
        if type(found[name]) not in (int, float) or not math.isfinite(found[name]):
            raise ValueError(f"{path}: {name} is {found[name]!r}, which is no score")
    return found
