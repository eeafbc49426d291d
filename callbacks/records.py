"""What a run has been found to be worth: a line for each evaluation, the latest scores, the loggers, a table.

`results/PREFIX.jsonl` in the run's folder has a line for each evaluation: scores with intervals, step, weights, stage,
checkpoint, number of items, seconds, sampling, seed, data, a hash of the model's config, the kit's version and commit.

`scores.json` is one flat object with the latest of each:

geneval/overall                 the score; geneval/overall/low and /high are its 95 % interval, where it is a mean
n/geneval/overall               how many items it is a mean over
weights/geneval, step/geneval   ema or raw, and the optimizer steps they have had
sampling/geneval/guidance, …    how images or text were drawn, and seed/geneval
seconds/geneval                 how long it took
train/seconds                   time spent training

`results/PREFIX_items.json` has each item's part in the latest scores, where a score is a mean of such: what a study
compares.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn
from rich import print as rich_print
from rich.table import Table

from callbacks.blocks import digest, file_name, settings
from unifluid import __version__
from unifluid.evaluation.scores import Score

FILE = "scores.json"


@dataclass(frozen=True)
class Record:
    """One evaluation. `settings` hold seed, sampling and data, and whatever else the evaluator says about itself."""

    prefix: str
    scores: dict[str, Score]
    weights: str
    step: int
    stage: str
    n: int
    seconds: float
    settings: dict[str, Any]


def publish(trainer: L.Trainer, module: L.LightningModule, record: Record, results: Path) -> None:
    """Into results/PREFIX.jsonl, scores.json, the loggers and, as a table, the terminal. On one rank."""
    name = file_name(record.prefix)
    append(results / f"{name}.jsonl", _line(trainer, module, record))
    items = {key: [round(x, 6) for x in score.items] for key, score in record.scores.items() if score.items}
    write(results / f"{name}_items.json", json.dumps(items))
    merge_scores(trainer.default_root_dir, _flat(record))
    for logger in trainer.loggers:
        metrics = {f"{record.prefix}/{name}": score.value for name, score in record.scores.items()}
        logger.log_metrics(metrics, record.step)
    table = Table("score", "value", "95 % interval", "n")
    table.title = f"{record.prefix}, {record.weights} weights, step {record.step}"
    table.caption = str(results / f"{name}.jsonl")
    for score_name, score in record.scores.items():
        interval = "" if score.low is None else f"{score.low:.3f} – {score.high:.3f}"
        table.add_row(score_name, f"{score.value:.3f}", interval, str(score.n))
    rich_print(table)


def _line(trainer: L.Trainer, module: L.LightningModule, record: Record) -> dict[str, Any]:
    about = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    scores = {name: dataclasses.asdict(score) for name, score in record.scores.items()}
    about |= {"scores": {name: {k: v for k, v in score.items() if k != "items"} for name, score in scores.items()}}
    about |= {"seconds": round(record.seconds, 3), "checkpoint": trainer.ckpt_path and str(trainer.ckpt_path)}
    about |= {"config": digest(settings(module)), "version": __version__, "commit": commit()}
    return {"time": datetime.now(UTC).isoformat(timespec="seconds"), **about.pop("settings"), **about}


def _flat(record: Record) -> dict[str, Any]:
    about = {"weights": record.weights, "step": record.step, "seconds": round(record.seconds, 3)} | record.settings
    entries: dict[str, Any] = {}
    for name, value in about.items():
        if name == "sampling":
            entries |= {f"sampling/{record.prefix}/{k}": v for k, v in value.items()}
        elif not isinstance(value, dict):  # the whole configuration of the data is in results/PREFIX.jsonl
            entries[f"{name}/{record.prefix}"] = value
    for name, score in record.scores.items():
        key = f"{record.prefix}/{name}"
        entries |= {key: score.value, f"n/{key}": score.n}
        if score.low is not None:
            entries |= {f"{key}/low": score.low, f"{key}/high": score.high}
    return entries


@cache
def commit() -> str | None:
    """The commit of the kit's own checkout, with + where files have been changed; None where it is no checkout."""
    root = Path(__file__).parents[1]
    try:
        if _git(root, "rev-parse", "--show-toplevel") != str(root.resolve()):  # installed inside a repository of others
            return None
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
        return _git(root, "rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *command: str) -> str:
    return subprocess.run(["git", "-C", root, *command], capture_output=True, text=True, check=True).stdout.strip()


def append(path: Path, entry: dict[str, Any]) -> None:
    """One line of JSON more. What a killed process left of a line is not built upon."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() and not _ends_a_line(path):
            file.write(b"\n")
        file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def merge_scores(folder: str | Path, values: dict[str, Any]) -> Path:
    """Put `values` into scores.json beside what it holds, whole or not at all -> its path."""
    path = Path(folder) / FILE
    write(path, json.dumps(dict(sorted((read_scores(path) | values).items())), indent=2))
    return path


def write(path: Path, text: str) -> None:
    """A file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_scores(path: Path) -> dict[str, Any]:
    """What `path` holds; nothing where it is missing, or damaged, which is no reason to lose new scores."""
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        rank_zero_warn(f"{path} is damaged and is written anew: {error}")
        return {}
