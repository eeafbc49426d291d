"""A study's YAML file: what is compared with what, and what is claimed of it.

claim: What is to be seen, in a sentence.
reported: What the paper reports of it.
configs: [world.yaml]                       # of every arm, as for `unifluid fit`
flags: {trainer.max_steps: 2000}            # likewise, on top of them
shared:                                     # trained once, before all arms; without the configs and flags above
  autoencoder: {configs: [autoencoder.yaml]}
stages:                                     # trained before the arms, once for each seed
  pretrained: {flags: {model.init_args.lam: 1.0}}
arms:
  frozen: {flags: {model.init_args.init_from: "{pretrained}/last.ckpt"}}
grid:                                       # more arms, one for each combination of values
  flags: {model.init_args.lam: "{lam}"}
  values: {lam: [0.01, 0.1, 1.0]}
seeds: [0, 1, 2]
scores: [geneval/overall, captions/exact]   # of scores.json
expect:
  - {score: geneval/overall, of: frozen, above: lam=1.0}

`{NAME}` in a flag stands for the folder of another run, which is made first, or for a value of the arm.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"  # "<<"
COMMANDS = ("fit", "test")
NAME = r"[\w .=+-]+"
PLACEHOLDER = re.compile(rf"\{{({NAME})\}}")
FIELDS = {
    "claim", "source", "reported", "world", "configs", "flags", "shared", "stages", "arms", "grid", "seeds", "scores",
    "expect", "figure",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One kind of run: an arm, or what arms build upon."""

    name: str
    command: str = "fit"
    configs: tuple[str, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)  # what its placeholders stand for
    shared: bool = False  # once, whatever the seed

    @property
    def needs(self) -> list[str]:
        """Names in its flags that are no values of its own: other runs."""
        found = PLACEHOLDER.findall(json.dumps([*self.configs, *self.flags.items()]))
        return [name for name in dict.fromkeys(found) if name not in self.values]


@dataclass(frozen=True)
class Expectation:
    """That `score` of the arm `of` lies above (or below) that of `than`, or no more than `margin` short of it."""

    score: str
    of: str
    than: str
    above: bool = True
    margin: float = 0.0

    def __str__(self) -> str:
        side = "above" if self.above else "below"
        least = f", or at most {self.margin:g} short of it" if self.margin else ""
        return f"{self.score}: {self.of} {side} {self.than}{least}"


@dataclass(frozen=True)
class Figure:
    """How scores are drawn: over a value of the arms (`axis`, perhaps `log`), or arm by arm; `plane`: one score over
    another, a curve through the arms."""

    axis: str | None = None
    log: bool = False
    plane: tuple[str, str] | None = None


@dataclass(frozen=True)
class Study:
    name: str
    path: Path
    claim: str
    source: str
    reported: str
    world: str
    entries: Mapping[str, Entry]  # shared, stages and arms
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: tuple[str, ...]
    expect: tuple[Expectation, ...]
    figure: Figure


class _Loader(yaml.SafeLoader):
    """Refuses a name that is given twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != MERGE]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_study(path: str | Path) -> Study:
    """Raises ValueError or OSError in one line that names the file and the field."""
    path = Path(path)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path}: a study has fields: {', '.join(sorted(FIELDS))}")
    try:
        return _study(path, found)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _study(path: Path, found: dict[str, Any]) -> Study:
    if unknown := set(found) - FIELDS:
        raise ValueError(f"no field {sorted(unknown)[0]!r}, there are {', '.join(sorted(FIELDS))}")
    for name in ("claim", "scores"):
        if not found.get(name):
            raise ValueError(f"{name} is missing")
    base = _entry("the study", {name: found[name] for name in ("configs", "flags") if name in found})
    shared = [_entry(name, given, shared=True) for name, given in _mapping(found, "shared")]
    stages = [_entry(name, given, base) for name, given in _mapping(found, "stages")]
    arms = [_entry(name, given, base) for name, given in _mapping(found, "arms")] + _grid(found, base)
    entries: dict[str, Entry] = {}
    for entry in (*shared, *stages, *arms):
        if entry.name in entries:
            raise ValueError(f"two runs are called {entry.name!r}")
        entries[entry.name] = entry
    _check_needs(entries)
    if not arms:
        raise ValueError("arms, or a grid of them, are missing")
    seeds = found.get("seeds", [0, 1, 2])
    whole = isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds)
    if not whole or not 0 < len(set(seeds)) == len(seeds):
        raise ValueError(f"seeds must be different whole numbers, got {seeds}")
    scores, names = tuple(found["scores"]), tuple(arm.name for arm in arms)
    figure = Figure(**{name: tuple(v) if name == "plane" else v for name, v in (found.get("figure") or {}).items()})
    if figure.axis and not any(figure.axis in arm.values for arm in arms):
        raise ValueError(f"figure.axis is {figure.axis!r}, which no arm has a value of")
    expect = tuple(_expectation(given, names, scores) for given in found.get("expect") or ())
    words = (str(found.get(name) or "").strip() for name in ("claim", "source", "reported", "world"))
    return Study(path.stem, path, *words, entries, names, tuple(seeds), scores, expect, figure)


def _mapping(found: dict[str, Any], name: str) -> Iterable[tuple[str, Any]]:
    given = found.get(name) or {}
    if not isinstance(given, dict):
        raise ValueError(f"{name} holds runs by name, got {given!r}")
    return ((str(key), value) for key, value in given.items())


def _entry(name: str, given: Any, base: Entry | None = None, shared: bool = False) -> Entry:
    given = {} if given is None else given
    allowed = {"command", "configs", "flags", "values"}
    if not isinstance(given, dict) or set(given) - allowed:
        raise ValueError(f"{name}: a run has {', '.join(sorted(allowed))}, got {given!r}")
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} names a folder: letters, digits and _ . = + - only")
    command, flags = given.get("command", "fit"), given.get("flags") or {}
    if command not in COMMANDS:
        raise ValueError(f"{name}: command must be one of {', '.join(COMMANDS)}, got {command!r}")
    if not isinstance(flags, dict):
        raise ValueError(f"{name}: flags hold values by name, got {flags!r}")
    configs = tuple(given.get("configs") or ())
    values = dict(given.get("values") or {})
    if base is None:
        return Entry(name, command, configs, flags, values, shared)
    return Entry(name, command, base.configs + configs, {**base.flags, **flags}, values, shared)


def _grid(found: dict[str, Any], base: Entry) -> list[Entry]:
    """An arm for each combination of the values that the grid lists, called by those."""
    grid = found.get("grid")
    if grid is None:
        return []
    lists = grid.get("values") if isinstance(grid, dict) else None
    if not isinstance(lists, dict) or not all(isinstance(values, list) and values for values in lists.values()):
        raise ValueError(f"grid.values must hold lists of values by name, got {grid!r}")
    arms = []
    for combination in itertools.product(*lists.values()):
        values = dict(zip(lists, combination, strict=True))
        name = " ".join(f"{key}={value}" for key, value in values.items())
        arms.append(_entry(name, {**grid, "values": values}, base))
    return arms


def _check_needs(entries: Mapping[str, Entry]) -> None:
    for entry in entries.values():
        for name in entry.needs:
            if name not in entries:
                raise ValueError(f"{entry.name}: {{{name}}} is neither a run nor a value of it")
            if entry.shared and not entries[name].shared:
                raise ValueError(f"{entry.name} is shared by all seeds, {name} is not")
    for name in entries:
        _check_circle(entries, [name])


def _check_circle(entries: Mapping[str, Entry], chain: list[str]) -> None:
    for name in entries[chain[-1]].needs:
        if name in chain:
            raise ValueError(" needs ".join([*chain, name]))
        _check_circle(entries, [*chain, name])


def _expectation(given: Any, arms: tuple[str, ...], scores: tuple[str, ...]) -> Expectation:
    sides = {"above", "below"} & set(given) if isinstance(given, dict) else set()
    if len(sides) != 1 or set(given) - {"score", "of", "margin", *sides} or not {"score", "of"} <= set(given):
        raise ValueError(f"expect: give score, of, and above or below (and perhaps margin), got {given!r}")
    side = sides.pop()
    for arm in (given["of"], given[side]):
        if arm not in arms:
            raise ValueError(f"expect names an arm {arm!r}; there are {', '.join(arms)}")
    if given["score"] not in scores:
        raise ValueError(f"expect names a score {given['score']!r} that is not among scores")
    return Expectation(given["score"], given["of"], given[side], side == "above", float(given.get("margin", 0.0)))
