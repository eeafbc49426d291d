"""From the official files of a downstream task to the kit's own rows: what all converters share.

A converter says which entries a part of the task has and what rows an entry makes; here pictures are linked, copied or
drawn, rows checked, counted and written, whole or not at all. What is left out is counted by its reason.
"""

from __future__ import annotations

import csv
import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from datamodules.formats.files import read_json
from datamodules.formats.jsonl import check, inside, write_jsonl
from datamodules.formats.rows import BadRow
from unifluid.lines import read_lines
from unifluid.sequence import Task as ExampleTask

Row = dict[str, Any]
UNANSWERED = ["unknown"]  # in the place of answers that only a server has; such rows have meta["unanswered"]


class MissingFile(ValueError):
    """An official file that is not there."""

    def __init__(self, path: Path, task: str):
        super().__init__(f"{path}: missing; {task} needs it (experiments/transfer/README.md)")
        self.path = path


class LeftOut(Exception):
    """An entry that makes no row, for a reason of the task's own definition; counted."""


@dataclass(frozen=True)
class Made:
    """A picture that must be drawn: `name` without suffix, and how."""

    name: str
    draw: Callable[[], Image.Image]


class Task(ABC):
    """One downstream task. `splits` are the files it can write: name -> parts of the official data that go in.

    Args:
        source: the folder of official files, laid out as experiments/transfer/README.md says.
        size: pixels of a side at which boxes are drawn, where a task draws some.
    """

    name: ClassVar[str]
    kind: ClassVar[ExampleTask] = "answer"
    splits: ClassVar[dict[str, tuple[str, ...]]]

    def __init__(self, source: str | Path, size: int = 224):
        self.source, self.size = Path(source), size
        if not self.source.is_dir():
            raise ValueError(f"{source}: no such folder of official files")

    @abstractmethod
    def entries(self, part: str) -> Sequence[Any]:
        """The official entries of a part. Raises ValueError naming a file that is missing or of another kind."""

    @abstractmethod
    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        """The rows of one entry, each with an id; pictures are paths below `source`, or `Made`.

        Raises LeftOut; KeyError, TypeError, … where the entry is not what the task distributes.
        """

    # -- reading ---------------------------------------------------------------------------------------------------

    def json(self, *names: str) -> Any:
        """The content of the first of several possible files."""
        return read_json(self.file(*names), (dict, list))

    def listed(self, name: str, key: str) -> list[Any]:
        """The list under `key` of a JSON object."""
        found = read_json(self.file(name)).get(key)
        if not isinstance(found, list):
            raise ValueError(f"{self.source / name}: expected a list under {key!r}")
        return found

    def lines(self, name: str) -> list[str]:
        return [line.strip() for line in read_lines(self.file(name)) if line.strip()]

    def table(self, name: str) -> list[dict[str, str]]:
        with _named(path := self.file(name)), path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))

    def file(self, *names: str) -> Path:
        for name in names:
            if (self.source / name).is_file():
                return self.source / name
        raise MissingFile(self.source / names[0], self.name)


# -- rows --------------------------------------------------------------------------------------------------------------


def caption_rows(
    number: Any, image: Any, captions: Sequence[str], training: bool, prompt: str = "caption en", **meta: Any
) -> Iterator[Row]:
    """A row for each caption in training; one for the image in an evaluation, with all of them as references."""
    if training:
        for i, caption in enumerate(captions):
            yield {"id": f"{number}-{i}", "image": image, "prompt": prompt, "caption": caption, "meta": meta}
        return
    meta = {"image_id": number, "captions": list(captions), **meta}
    yield {"id": f"{number}", "image": image, "prompt": prompt, "caption": captions[0], "meta": meta}


def answer_rows(
    number: Any, image: Any, question: str, answers: Sequence[str] | None, training: bool, **meta: Any
) -> Iterator[Row]:
    """A row for each answer in training; one for the question in an evaluation, with all of them as references.

    A pass over the rows of training is so many passes over the questions, each with another of their answers.
    """
    meta = {"question_id": number, **meta}
    if answers is None:
        meta, answers = meta | {"unanswered": True}, UNANSWERED
    if training:
        for i, answer in enumerate(answers):
            yield {"id": f"{number}-{i}", "image": image, "question": question, "answers": [answer], "meta": meta}
        return
    yield {"id": f"{number}", "image": image, "question": question, "answers": list(answers), "meta": meta}


# -- writing -----------------------------------------------------------------------------------------------------------


@dataclass
class Converted:
    """What became of one split."""

    rows: int
    left_out: Counter[str]
    missing: list[str]  # pictures that are not there


def convert(
    task: Task,
    split: str,
    out: str | Path,
    copy: bool = False,
    allow_missing: bool = False,
    progress: Callable[[Iterable[Any], int, str], Iterable[Any]] = lambda entries, n, name: entries,
) -> Converted | None:
    """Write OUT/{split}.jsonl and its pictures; None where that file is there already.

    Raises ValueError naming file and entry where the source is not what the task distributes, an id comes twice, or a
    picture is missing and that is not allowed.
    """
    out, done = Path(out), Converted(0, Counter(), [])
    file = out / f"{split}.jsonl"
    if file.exists():
        return None
    out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()

    def rows() -> Iterator[Row]:
        for part in task.splits[split]:
            with _as_distributed(task, part):
                entries = task.entries(part)
            for entry in progress(entries, len(entries), f"{task.name} {part}"):
                for row in _rows_of(task, entry, part, split.startswith("train"), done.left_out):
                    row = {"task": task.kind, **row, "image": _pictures(task, row["image"], out, copy, done.missing)}
                    if len(task.splits[split]) > 1:  # parts number their questions each from the start
                        row["id"] = f"{part}-{row['id']}"
                    if row["id"] in seen:
                        raise ValueError(f"{task.source}: {task.name} {part}: the id {row['id']} comes twice")
                    seen.add(row["id"])
                    if row["image"] is None:
                        continue
                    try:
                        check(row, task.kind, row["id"])
                    except BadRow as error:
                        done.left_out[error.reason] += 1
                        continue
                    done.rows += 1
                    yield row
        if done.missing and not allow_missing:
            raise ValueError(
                f"{len(done.missing)} pictures of {task.name} {split} are missing, first {done.missing[0]}: put them "
                "there, or leave their rows out with --allow-missing"
            )
        if not done.rows:
            raise ValueError(f"{task.source}: {task.name} {split} has no usable row ({dict(done.left_out)})")

    try:
        write_jsonl(file, rows())
    finally:
        Path(f"{file}.partial").unlink(missing_ok=True)
    return done


def _rows_of(task: Task, entry: Any, part: str, training: bool, left_out: Counter[str]) -> Iterator[Row]:
    try:
        with _as_distributed(task, part, f" in the entry {str(entry):.120}"):
            yield from task.rows(entry, part, training)
    except LeftOut as reason:
        left_out[str(reason)] += 1


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error})") from error


@contextmanager
def _as_distributed(task: Task, part: str, where: str = "") -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{task.source}: not {task.name} {part} as it is distributed: {error!r}{where}") from error


def _pictures(task: Task, image: Any, out: Path, copy: bool, missing: list[str]) -> Any:
    """Where the picture or pictures of a row are below `out`; None where one is missing."""
    several = image if isinstance(image, list) else [image]
    found = [
        _made(task, i, out, missing) if isinstance(i, Made) else _linked(task, i, out, copy, missing) for i in several
    ]
    if None in found:
        return None
    return found if isinstance(image, list) else found[0]


def _linked(task: Task, name: str, out: Path, copy: bool, missing: list[str]) -> str | None:
    try:
        source, place = (task.source / inside(name, "image")).resolve(), out / "images" / name
    except BadRow as error:
        raise ValueError(f"{task.source}: {error}") from error
    if not source.is_file():
        missing.append(str(task.source / name))
        return None
    if not place.exists() or (copy and place.is_symlink()):
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        partial.unlink(missing_ok=True)
        shutil.copyfile(source, partial) if copy else partial.symlink_to(source)
        os.replace(partial, place)  # also a link to what is gone
    return f"images/{name}"


def _made(task: Task, picture: Made, out: Path, missing: list[str]) -> str | None:
    place = out / "made" / f"{picture.name}.png"
    if not place.exists():
        try:
            drawn = picture.draw().convert("RGB")
        except MissingFile as error:  # a picture or what is drawn on it: the row's matter, not the split's
            missing.append(str(error.path))
            return None
        except (KeyError, TypeError, IndexError, AttributeError, ValueError, OSError) as error:
            raise ValueError(
                f"{task.source}: {task.name}: cannot make the picture {picture.name}: {error!r}"
            ) from error
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        drawn.save(partial, format="PNG")
        os.replace(partial, place)
    return f"made/{picture.name}.png"
