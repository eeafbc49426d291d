"""The runs that a study takes, in an order in which each can be made.

A run lies in a folder named after its settings, so that studies share the runs that they have in common.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from unifluid.studies.study import PLACEHOLDER, Entry, Study

SHARED = 0  # seed of what all seeds share, so that more seeds, or others, share it too


@dataclass(frozen=True)
class Run:
    """An entry with one seed."""

    entry: Entry
    seed: int
    folder: Path
    args: tuple[str, ...]  # of `unifluid`
    after: tuple[Path, ...]  # folders of the runs it builds upon
    steps: int | None  # optimizer steps, where it takes any
    configs: Mapping[str, Any] = field(default_factory=dict)  # path -> what it held when the folder was named after it

    def __str__(self) -> str:
        return self.entry.name if self.entry.shared else f"{self.entry.name}, seed {self.seed}"

    @property
    def changed(self) -> str | None:
        """A config that no longer holds what it did: the run would not be what its folder is called."""
        for path, config in self.configs.items():
            try:
                if read_config(path) != config:
                    return path
            except (OSError, ValueError):
                return path
        return None


def plan_runs(
    study: Study,
    out: Path,
    only: Iterable[str] = (),
    steps: int | None = None,
    devices: str | None = None,
) -> list[Run]:
    """The runs in `out` that the arms `only` (all by default) take, each after those it builds upon.

    Raises ValueError where a file that a run names is not there, or no YAML, or two arms are the same run.
    """
    runs: dict[tuple[str, int], Run] = {}

    def add(entry: Entry, seed: int) -> Run:
        seed = SHARED if entry.shared else seed
        if (entry.name, seed) not in runs:
            needed = {name: add(study.entries[name], seed) for name in entry.needs}
            runs[entry.name, seed] = make(entry, seed, needed)
        return runs[entry.name, seed]

    def make(entry: Entry, seed: int, needed: Mapping[str, Run]) -> Run:
        known = dict(entry.values) | {name: str(run.folder) for name, run in needed.items()}
        flags = {"seed_everything": seed} | {name: _filled(value, known) for name, value in entry.flags.items()}
        if entry.command == "fit" and steps is not None:
            flags["trainer.max_steps"] = steps
        if devices is not None:
            flags["trainer.devices"] = devices
        paths = [str(_filled(config, known)) for config in entry.configs]
        configs = [_config(study, entry, path) for path in paths]
        settings = json.dumps([entry.command, configs, flags], sort_keys=True, default=str)
        folder = out / "runs" / hashlib.sha256(settings.encode()).hexdigest()[:12]
        given = [f"--{name}={_text(value)}" for name, value in flags.items()]
        args = [entry.command, *(f"--config={path}" for path in paths), *given, f"--trainer.default_root_dir={folder}"]
        after = tuple(run.folder for run in needed.values())
        own_steps = _steps(configs, flags) if entry.command == "fit" else None
        return Run(entry, seed, folder, tuple(args), after, own_steps, dict(zip(paths, configs, strict=True)))

    for seed in study.seeds:
        for arm in only or study.arms:
            add(study.entries[arm], seed)
    _check_distinct(study, runs.values())
    return list(runs.values())


def _check_distinct(study: Study, runs: Iterable[Run]) -> None:
    """Two names of one run would be compared with each other, two seeds of it counted as two."""
    taken: dict[Path, Run] = {}
    for run in runs:
        if taken.setdefault(run.folder, run) is not run:
            raise ValueError(f"{study.path}: {taken[run.folder]}, and {run}, have the same settings")


def _config(study: Study, entry: Entry, path: str) -> dict[str, Any]:
    try:
        return read_config(path)
    except OSError as error:
        raise ValueError(f"{study.path}: {entry.name} needs {path}: {error.strerror}") from error


def read_config(path: str) -> dict[str, Any]:
    """Raises OSError, and ValueError in one line that names the file."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict) or not isinstance(config.get("trainer") or {}, dict):
        raise ValueError(f"{path}: a config holds settings by name")
    return config


def _steps(configs: Iterable[dict[str, Any]], flags: Mapping[str, Any]) -> int | None:
    trainers = [config.get("trainer") or {} for config in configs]
    named = [trainer["max_steps"] for trainer in trainers if "max_steps" in trainer]
    return flags.get("trainer.max_steps", named[-1] if named else None)


def _filled(value: Any, known: Mapping[str, Any]) -> Any:
    """`value` with its placeholders replaced; one that stands alone keeps its type."""
    if isinstance(value, dict):
        return {name: _filled(v, known) for name, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, known) for v in value]
    if not isinstance(value, str):
        return value
    if match := PLACEHOLDER.fullmatch(value):
        return known[match[1]]
    return PLACEHOLDER.sub(lambda match: str(known[match[1]]), value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
