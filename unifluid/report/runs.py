"""What a run's folder holds, as the page shows it.

config.yaml            settings, as dotted keys
events.out.tfevents.*  losses and throughput, from TensorBoard's event files
results/PREFIX.jsonl   scores as training went on, a line for each evaluation
scores.json            the latest scores, with intervals
samples.png, results/PREFIX.png   sheets of pictures
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml

from unifluid.evaluation.scores import Score

CONFIG, SCORES, SAMPLES, RESULTS = "config.yaml", "scores.json", "samples.png", "results"
LOSSES = ("train/", "val/")  # what their tags begin with
NO_LOSSES = ("train/gradient_norm", "train/skipped_steps")
THROUGHPUT = "throughput/"


class Curve(NamedTuple):
    """Values by step, in order; all are finite."""

    steps: list[float]
    values: list[float]


@dataclass(frozen=True)
class Run:
    """`title` is no other's on the page; runs of one `label` belong together, such as seeds of one setting."""

    folder: Path
    title: str
    label: str
    settings: Mapping[str, str]  # dotted key -> value
    losses: Mapping[str, Curve]  # tag -> values by step
    history: Mapping[str, Curve]  # "PREFIX/NAME (weights)" -> values by step
    scores: Mapping[str, Mapping[str, Score]]  # prefix -> name -> the latest
    about: Mapping[str, Mapping[str, str]]  # prefix -> what the latest was made with: weights, step
    throughput: Mapping[str, float]  # name -> median
    last_step: int | None  # the last that was logged
    seconds: float | None  # of training
    last: Mapping[str, Any]  # line of the last evaluation: time, version, commit
    pictures: Mapping[str, Path]  # "samples" or a prefix -> file


def read_runs(folders: Sequence[Path], labels: Sequence[str] | None = None) -> list[Run]:
    """Raises ValueError or OSError in one line: no runs, a folder that is none or is given twice, damaged files."""
    if not folders:
        raise ValueError("a page needs at least one run")
    if labels is not None and len(labels) != len(folders):
        raise ValueError(f"{len(folders)} runs have {len(labels)} labels: give one for each, in the same order")
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
        if not (folder / CONFIG).is_file() and not (folder / SCORES).is_file():
            raise ValueError(f"{folder}: no run, it holds neither {CONFIG} nor {SCORES}")
    repeated = [path for path, n in Counter(folder.resolve() for folder in folders).items() if n > 1]
    if repeated:
        raise ValueError(f"{repeated[0]} is given twice")
    labels = short_names(folders) if labels is None else labels
    return [read_run(*about) for about in zip(folders, titles(folders, labels), labels, strict=True)]


def titles(folders: Sequence[Path], labels: Sequence[str]) -> list[str]:
    """The label, and where several runs have it, the ends of their paths."""
    found = list(labels)
    for label, n in Counter(labels).items():
        if n > 1:
            own = [i for i, other in enumerate(labels) if other == label]
            for i, name in zip(own, short_names([folders[i] for i in own]), strict=True):
                found[i] = f"{label} · {name}"
    return found


def short_names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths that tell them apart, all of the same number of parts."""
    parts = [folder.resolve().parts for folder in folders]
    n = 1
    while len({path[-n:] for path in parts}) < len(parts):
        n += 1
    return ["/".join(path[-n:]) for path in parts]


def read_run(folder: Path, title: str, label: str) -> Run:
    flat, lines, scalars = read_scores(folder / SCORES), read_results(folder / RESULTS), read_events(folder)
    config = read_config(folder / CONFIG)
    drawn = {key: as_text(value) for key, value in flat.items() if key.startswith(("sampling/", "seed/"))}
    scores, about = group_scores(flat)
    steps = [curve.steps[-1] for curve in scalars.values()] + [line["step"] for line in lines]
    pictures = {"samples": folder / SAMPLES} | {p.stem: p for p in sorted((folder / RESULTS).glob("*.png"))}
    return Run(
        folder,
        title,
        label,
        settings=dict(flatten(config)) if config else drawn,
        losses={tag: curve for tag, curve in scalars.items() if tag.startswith(LOSSES) and tag not in NO_LOSSES},
        history=history(lines),
        scores=scores,
        about=about,
        throughput={
            tag.removeprefix(THROUGHPUT): median(curve.values)
            for tag, curve in scalars.items()
            if tag.startswith(THROUGHPUT)
        },
        last_step=int(max(steps)) if steps else None,
        seconds=flat.get("train/seconds"),
        last=max(lines, key=lambda line: line["time"], default={}),
        pictures={name: path for name, path in pictures.items() if path.is_file()},
    )


# -- settings ---------------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, Any]:
    """Nothing where a run was only evaluated."""
    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path}: settings are held by name, got {config!r}")
    return config


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings -> (dotted key, value). Classes in a list go by their names: one more shifts no others."""
    if isinstance(value, list) and value and all(isinstance(v, dict) and "class_path" in v for v in value):
        value = by_class(value)
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flatten(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, as_text(value)


def by_class(items: list[dict[str, Any]]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    seen = Counter[str]()
    for item in items:
        name = str(item["class_path"]).rpartition(".")[2]
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name}[{seen[name]}]"] = item
    return named


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# -- scores -----------------------------------------------------------------------------------------------------


def read_scores(path: Path) -> dict[str, Any]:
    """scores.json, one flat object; nothing where there are none yet."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a file of scores ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: not a file of scores")
    return found


def group_scores(flat: Mapping[str, Any]) -> tuple[dict[str, dict[str, Score]], dict[str, dict[str, str]]]:
    """scores.json -> (prefix -> name -> score, prefix -> weights and step)."""
    prefixes = [key.removeprefix("weights/") for key in flat if key.startswith("weights/")]
    scores: dict[str, dict[str, Score]] = {}
    for key in flat:
        if key.startswith("n/") and (name := key.removeprefix("n/")) in flat:
            prefix = max((p for p in prefixes if name.startswith(f"{p}/")), key=len, default=name.partition("/")[0])
            score = Score(flat[name], flat[key], flat.get(f"{name}/low"), flat.get(f"{name}/high"))
            scores.setdefault(prefix, {})[name.removeprefix(f"{prefix}/")] = score
    about = {
        prefix: {name: as_text(flat[f"{name}/{prefix}"]) for name in ("weights", "step") if f"{name}/{prefix}" in flat}
        for prefix in scores
    }
    return scores, about


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every evaluation. What a killed process left of a line is passed over."""
    lines = []
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and {"prefix", "scores", "step", "weights", "time"} <= line.keys():
                lines.append(line)
    return lines


def history(lines: list[dict[str, Any]]) -> dict[str, Curve]:
    """A score's values by step, apart for EMA and raw weights; of two evaluations at one step the later."""
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, score in line["scores"].items():
            by_step = found.setdefault(f"{line['prefix']}/{name} ({line['weights']})", {})
            by_step[line["step"]] = score["value"]
    return curves(found)


# -- events -----------------------------------------------------------------------------------------------------


def read_events(folder: Path) -> dict[str, Curve]:
    """All scalars that TensorBoard shows for this folder; those of nested runs are not its own.

    Losses that `unifluid validate` and `test` log are left out: they stand at step 0, whatever the checkpoint's.
    """
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, TENSORS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, IMAGES: 1, TENSORS: 1})  # 0: all of them
    events.Reload()
    found = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()[SCALARS]}
    for tag, by_step in found.items():
        if tag.startswith("val/"):
            by_step.pop(0, None)
    return curves(found)


def curves(found: Mapping[str, Mapping[int, float]]) -> dict[str, Curve]:
    """Those with a finite value."""
    finite = {name: sorted((s, v) for s, v in by_step.items() if math.isfinite(v)) for name, by_step in found.items()}
    return {name: Curve(*map(list, zip(*points, strict=True))) for name, points in finite.items() if points}
