"""GenEval's 553 prompts: from the official file where it is at hand, else made by the published rules."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.base import ExampleDataset
from datamodules.formats.jsonl import decode
from unifluid.evaluation.coco import NAMES
from unifluid.sequence import Example, Task

OFFICIAL_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"  # evaluation_metadata.jsonl
COUNTS = {"two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
TAGS = ("single_object", *COUNTS)
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {2: "two", 3: "three", 4: "four"}
PLURALS = {"knife": "knives", "person": "people", "computer mouse": "computer mice", "sheep": "sheep"}

Metadata = dict[str, Any]


class GenEvalPrompts(ExampleDataset):
    """Prompts to draw, with what their pictures must show as `meta`; there are no pictures to learn from.

    Scores are called `geneval` for the official file alone, else `geneval_generated`; `sha256` is of the prompt set.

    Args:
        metadata: the official evaluation_metadata.jsonl, or a file like it; null to make prompts by the rules.
        seed: of the prompts that are made.
    """

    task: Task = "generate"

    def __init__(self, metadata: str | None = None, seed: int = 0):
        data = made(seed) if metadata is None else _read(metadata)
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.score_name = "geneval" if self.sha256 == OFFICIAL_SHA256 else "geneval_generated"
        self.prompts = [checked(line, f"{metadata}:{i}") for i, line in enumerate(data.splitlines(), start=1) if line]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Example:
        metadata = self.prompts[index]
        return Example(f"{index:05d}", self.task, prompt=metadata["prompt"], meta=metadata)

    def texts(self) -> Iterator[str]:
        return (metadata["prompt"] for metadata in self.prompts)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of GenEval's metadata") from error


def checked(line: bytes, where: str) -> Metadata:
    """One line of metadata. Raises ValueError naming file and line."""
    try:
        metadata = decode(line)
        for number, clause in [*enumerate(metadata["include"]), *((0, c) for c in metadata.get("exclude", []))]:
            _check_clause(clause, number)
        if metadata["tag"] not in TAGS or not isinstance(metadata["prompt"], str):
            raise TypeError(f"tag must be one of {', '.join(TAGS)}, and prompt a text")
        if not metadata["include"]:
            raise TypeError("include is empty: any image would be right")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: not GenEval's metadata: tag, include and prompt are needed ({error})") from error
    return metadata


def _check_clause(clause: Metadata, number: int) -> None:
    """A clause that no image, or any image, could satisfy would be a score all the same. Raises TypeError, KeyError."""
    name, count = clause["class"], clause["count"]
    if not isinstance(name, str) or type(count) is not int or count < 1:
        raise TypeError("clauses need a class and a count of at least 1")
    if clause.get("color", COLOURS[0]) not in COLOURS:
        raise TypeError(f"color {clause['color']!r} is none of {', '.join(COLOURS)}")
    if "position" in clause:
        relation, target = clause["position"]
        if relation not in RELATIONS or target not in range(number):
            raise TypeError(f"position {clause['position']!r} is none of {', '.join(RELATIONS)} an earlier clause")


# -- the published rules (Ghosh et al., 2023, §3 and appendix A) -------------------------------------------------------


def made(seed: int) -> bytes:
    """As many prompts of each kind as GenEval has, no two alike, as the lines of a metadata file."""
    rng = random.Random(seed)
    prompts = [_metadata("single_object", [_clause(name)], f"a photo of {_a(name)}") for name in NAMES]
    makers = {"two_object": _two, "counting": _counting, "colors": _coloured, "position": _placed, "color_attr": _both}
    for tag, maker in makers.items():
        found: dict[str, Metadata] = {}
        while len(found) < COUNTS[tag]:
            metadata = maker(rng)
            found[metadata["prompt"]] = metadata
        prompts += found.values()
    return "".join(json.dumps(metadata) + "\n" for metadata in prompts).encode()


def _metadata(tag: str, include: list[Metadata], prompt: str, **more: Any) -> Metadata:
    return {"tag": tag, "include": include, **more, "prompt": prompt}


def _clause(name: str, count: int = 1, **more: Any) -> Metadata:
    return {"class": name, "count": count, **more}


def _a(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _plural(name: str) -> str:
    if name in PLURALS or name.endswith(("skis", "scissors")):
        return PLURALS.get(name, name)
    return name + ("es" if name.endswith(("s", "sh", "ch", "x")) else "s")


def _two(rng: random.Random) -> Metadata:
    a, b = rng.sample(NAMES, 2)
    return _metadata("two_object", [_clause(a), _clause(b)], f"a photo of {_a(a)} and {_a(b)}")


def _counting(rng: random.Random) -> Metadata:
    name, n = rng.choice(NAMES), rng.choice(list(NUMBERS))
    exclude = [_clause(name, n + 1)]
    return _metadata("counting", [_clause(name, n)], f"a photo of {NUMBERS[n]} {_plural(name)}", exclude=exclude)


def _coloured(rng: random.Random) -> Metadata:
    name, colour = rng.choice(NAMES[1:]), rng.choice(COLOURS)  # no coloured persons
    return _metadata("colors", [_clause(name, color=colour)], f"a photo of {_a(f'{colour} {name}')}")


def _placed(rng: random.Random) -> Metadata:
    (a, b), relation = rng.sample(NAMES, 2), rng.choice(RELATIONS)
    include = [_clause(b), _clause(a, position=[relation, 0])]
    return _metadata("position", include, f"a photo of {_a(a)} {relation} {_a(b)}")


def _both(rng: random.Random) -> Metadata:
    (a, b), (x, y) = rng.sample(NAMES[1:], 2), rng.sample(COLOURS, 2)
    include = [_clause(a, color=x), _clause(b, color=y)]
    return _metadata("color_attr", include, f"a photo of {_a(f'{x} {a}')} and {_a(f'{y} {b}')}")
