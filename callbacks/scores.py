"""scores.json: what a run has been found to be worth, one flat object in the run's folder.

geneval/overall                 the score; geneval/overall/low and /high are its 95 % interval, where it is a share
n/geneval/overall               how many items it is a mean over
weights/geneval, step/geneval   ema or raw, and the optimizer steps they have had
sampling/geneval/guidance, …    how images or text were drawn, and seed/geneval
train/seconds                   time spent training
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

FILE = "scores.json"


def merge_scores(folder: str | Path, values: dict[str, Any]) -> Path:
    """Put `values` into scores.json beside what it holds, whole or not at all -> its path."""
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    merged = dict(sorted((read_scores(path) | values).items()))
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(merged, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def read_scores(path: Path) -> dict[str, Any]:
    """What `path` holds; nothing where it is missing, or damaged, which is no reason to lose new scores."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        rank_zero_warn(f"{path} is damaged and is written anew: {error}")
        return {}
