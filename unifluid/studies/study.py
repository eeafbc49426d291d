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
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from unifluid.nearest import did_you_mean

MERGE = "tag:yaml.org,2002:merge"  # "<<"
COMMANDS = ("fit", "test")
NAME = r"\w[\w .=+-]*"
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
        settings = json.dumps([*self.configs, *self.flags.items()], ensure_ascii=False, default=str)
        found = PLACEHOLDER.findall(settings)
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
    another, a curve through the arms; `curves`: losses as training went on."""

    axis: str | None = None
    log: bool = False
    plane: tuple[str, str] | None = None
    curves: tuple[str, ...] = ()


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

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = [key.value for key, _ in node.value if key.tag != MERGE]
        for name in names:
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is there twice", node.start_mark)
        return node


def read_study(path: str | Path, overlays: Iterable[str] = ()) -> Study:
    """`overlays`: configs on top of the study's own, below those of its arms.

    Raises ValueError or OSError in one line that names the file and the field.
    """
    path = Path(path)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, or a day that there is not
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path}: a study has fields: {', '.join(sorted(FIELDS))}")
    try:
        return _study(path, found, list(overlays))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _study(path: Path, found: dict[str, Any], overlays: list[str]) -> Study:
    if unknown := set(found) - FIELDS:
        name, known = min(unknown, key=str), sorted(FIELDS)
        raise ValueError(f"no field {name!r}, there are {', '.join(known)}{did_you_mean(str(name), known)}")
    for name in ("claim", "scores"):
        if not found.get(name):
            raise ValueError(f"{name} is missing")
    words = [_text(found, name) for name in ("claim", "source", "reported", "world")]
    base = _entry("the study", {name: found[name] for name in ("configs", "flags") if name in found})
    base = replace(base, configs=(*base.configs, *overlays))
    shared = [_entry(name, given, shared=True) for name, given in _mapping(found, "shared", "runs").items()]
    stages = [_entry(name, given, base) for name, given in _mapping(found, "stages", "runs").items()]
    arms = [_entry(name, given, base) for name, given in _mapping(found, "arms", "runs").items()] + _grid(found, base)
    entries: dict[str, Entry] = {}
    for entry in (*shared, *stages, *arms):
        if entry.name in entries:
            raise ValueError(f"two runs are called {entry.name!r}")
        entries[entry.name] = entry
    _check_needs(entries)
    if not arms:
        raise ValueError("arms, or a grid of them, are missing")
    scores, names = _list(found, "scores", "names of scores"), tuple(arm.name for arm in arms)
    figure = _figure(_mapping(found, "figure", "settings"), arms, scores)
    expect = found.get("expect") or []
    if not isinstance(expect, list):
        raise ValueError(f"expect must be a list of what is expected, got {expect!r}")
    expected = tuple(_expectation(given, names, scores) for given in expect)
    seeds = checked_seeds(found.get("seeds", [0, 1, 2]))
    return Study(path.stem, path, *words, entries, names, seeds, scores, expected, figure)


def _text(found: dict[str, Any], name: str) -> str:
    given = found.get(name) or ""
    if not isinstance(given, str):
        raise ValueError(f"{name} must be words, got {given!r}")
    return given.strip()


def _mapping(found: dict[str, Any], name: str, what: str) -> dict[str, Any]:
    given = found.get(name) or {}
    if not isinstance(given, dict):
        raise ValueError(f"{name} must hold {what} by name, got {given!r}")
    return {str(key): value for key, value in given.items()}


def _list(found: dict[str, Any], name: str, what: str) -> tuple[str, ...]:
    given = found.get(name) or []
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"{name} must be a list of {what}, got {given!r}")
    return tuple(given)


def checked_seeds(seeds: Any) -> tuple[int, ...]:
    """Raises ValueError."""
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not whole or not 0 < len(set(seeds)) == len(seeds):
        raise ValueError(f"seeds must be a list of different whole numbers, none below 0, got {seeds!r}")
    return tuple(seeds)


def _entry(name: str, given: Any, base: Entry | None = None, shared: bool = False) -> Entry:
    given = {} if given is None else given
    allowed = {"command", "configs", "flags", "values"}
    if not isinstance(given, dict) or set(given) - allowed:
        raise ValueError(f"{name}: a run has {', '.join(sorted(allowed))}, got {given!r}")
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} names a folder: letters, digits, spaces, _ . = + - only, a letter or digit first")
    if (command := given.get("command", "fit")) not in COMMANDS:
        raise ValueError(f"{name}: command must be one of {', '.join(COMMANDS)}, got {command!r}")
    try:
        configs = _list(given, "configs", "files")
        flags, values = _mapping(given, "flags", "values"), _mapping(given, "values", "values")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if base is None:
        return Entry(name, command, configs, flags, values, shared)
    return Entry(name, command, base.configs + configs, {**base.flags, **flags}, values, shared)


def _grid(found: dict[str, Any], base: Entry) -> list[Entry]:
    """An arm for each combination of the values that the grid lists, called by those."""
    grid = found.get("grid")
    if grid is None:
        return []
    lists = grid.get("values") if isinstance(grid, dict) else None
    if not isinstance(lists, dict) or not lists or not all(isinstance(v, list) and v for v in lists.values()):
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


def _figure(given: dict[str, Any], arms: Sequence[Entry], scores: tuple[str, ...]) -> Figure:
    names = [setting.name for setting in fields(Figure)]
    if unknown := set(given) - set(names):
        raise ValueError(f"figure has no {sorted(unknown)[0]!r}, there are {', '.join(names)}")
    axis, log, plane = (given.get(name) for name in ("axis", "log", "plane"))
    values = [arm.values[axis] for arm in arms if axis in arm.values] if isinstance(axis, str) else []
    if axis is not None and not values:
        raise ValueError(f"figure.axis is {axis!r}, which no arm has a value of")
    if not all(isinstance(value, int | float) for value in values):
        raise ValueError(f"figure.axis is {axis!r}, whose values are no numbers: {values}")
    if plane is not None and not (isinstance(plane, list) and len(plane) == 2 and all(one in scores for one in plane)):
        raise ValueError(f"figure.plane must be two of the scores, got {plane!r}")
    if not isinstance(log or False, bool):
        raise ValueError(f"figure.log must be true or false, got {log!r}")
    return Figure(axis, bool(log), None if plane is None else tuple(plane), _list(given, "curves", "losses"))


def _expectation(given: Any, arms: tuple[str, ...], scores: tuple[str, ...]) -> Expectation:
    sides = {"above", "below"} & set(given) if isinstance(given, dict) else set()
    if len(sides) != 1 or set(given) - {"score", "of", "margin", *sides} or not {"score", "of"} <= set(given):
        raise ValueError(f"expect: give score, of, and above or below (and perhaps margin), got {given!r}")
    side = sides.pop()
    of, than, margin = str(given["of"]), str(given[side]), given.get("margin", 0.0)
    for arm in (of, than):
        if arm not in arms:
            raise ValueError(f"expect names an arm {arm!r}; there are {', '.join(arms)}")
    if of == than:
        raise ValueError(f"expect compares {of!r} with itself")
    if given["score"] not in scores:
        raise ValueError(f"expect names a score {given['score']!r} that is not among scores")
    if type(margin) not in (int, float) or not 0 <= margin < math.inf:
        raise ValueError(f"expect.margin must be a number, not below 0, got {margin!r}")
    return Expectation(given["score"], of, than, side == "above", float(margin))
