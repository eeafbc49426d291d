"""WebDataset-layout tar shards as they are distributed, read by index: any row at any time, nothing extracted."""

from __future__ import annotations

import functools
import glob
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datamodules.formats.jsonl import decode
from datamodules.formats.rows import FIELDS, PICTURES, REQUIRED, BadRow, text_fields
from datamodules.formats.skipping import Skipping
from datamodules.formats.tar import Shard, expand, open_shard, read_member
from datamodules.images import decode_image
from unifluid import lines
from unifluid.sequence import Example, Task

JSON = "json:"
OWN = {  # what `unifluid data shard` writes
    **{name: f"{name}.png;{name}.jpg;{name}.jpeg;{name}.webp;{name}.gif" for name in PICTURES},
    **{name: f"{JSON}{name}" for name in FIELDS if name not in PICTURES},
}


class WebDataset(Skipping):
    """Samples of tar shards: a map from 0 … len - 1 to `Example`s, in the order of shards and samples.

    Headers are scanned once, on first use (`unifluid data check` does it ahead of a run); the index of a shard is kept
    beside it and made anew when the shard's size or time changes. In memory a sample takes some 20 bytes and 16 for
    each field that is read. Compressed shards have no index: unpack the compression (the .tar stays).

    Samples with links, devices, paths that leave the shard or pickles are refused; samples without a field are left
    out; of a damaged shard what comes before the damage is used. All are counted in `skipped`, a damaged shard as one.

    Args:
        shards: files: a name or a list; {00000..01234}, {a,b}, * and ? are expanded.
        task: of all samples.
        fields: field of `Example` → where a sample has it: the extension (`txt`), alternatives (`jpg;png;webp`), or a
            key of a JSON member (`json:caption`, `meta.json:answers`). A list for `image`: several looked at together.
            Default: what `unifluid data shard` writes.
        prompt: what a caption is asked for with, where the samples do not say.
        index: folder for the index files, where the shards' own cannot be written.
        index_workers: processes that scan shards without an index; one scans some 40,000 members a second.
        max_skipped: share of samples that may be bad.
        max_bad_shards: share of shards that may be missing or damaged.
        strict: in an evaluation: stop at the first bad sample or shard.
    """

    def __init__(
        self,
        shards: str | list[str],
        task: Task,
        fields: dict[str, str | list[str]] | None = None,
        prompt: str | None = None,
        index: str | None = None,
        index_workers: int = 0,
        max_skipped: float = 0.01,
        max_bad_shards: float = 0.05,
        strict: bool = False,
    ):
        source = shards if isinstance(shards, str) else f"{shards[0]} and {len(shards) - 1} more"
        super().__init__(source, task, max_skipped, strict)
        self.fields, self.prompt = _fields(fields, task), prompt
        self.paths = _find(shards)
        self._index(self._open(None if index is None else Path(index), index_workers), max_bad_shards)

    # -- the index ------------------------------------------------------------------------------------------------

    def _open(self, folder: Path | None, workers: int) -> Iterator[Shard]:
        """The index of each shard, in order."""
        open_one = functools.partial(_open_or_empty, folder=folder)
        if not workers:
            yield from map(open_one, self.paths)
        else:
            with ProcessPoolExecutor(workers) as pool:
                yield from pool.map(open_one, self.paths)

    def _index(self, shards: Iterator[Shard], max_bad_shards: float) -> None:
        keys, owners, bad = [], [], []
        spans: dict[str, list[np.ndarray]] = {member: [] for member in self._members()}
        bar = tqdm(self.paths, "index", unit="shard", disable=len(self.paths) < 50)
        for number, (path, shard) in enumerate(zip(bar, shards, strict=True)):
            if shard.damage:
                bad.append(f"{path}: {shard.damage}")
                reason = "corrupt shard" if path.exists() else "missing shard"
                self.reject(str(path), BadRow(reason, shard.damage))
            for key, reason, detail in shard.refused:
                self.reject(f"{path} (id {key})", BadRow(reason, detail))
            places = {member: _locate(shard, member) for member in spans}
            good = self._complete(path, shard, places)
            keys.append(shard.keys[good])
            owners.append(np.full(len(keys[-1]), number, dtype=np.int32))
            for member, found in places.items():
                spans[member].append(found[good])
        if len(bad) > max_bad_shards * len(self.paths):
            raise ValueError(
                f"{self.source}: {len(bad)} of {len(self.paths)} shards are bad, more than max_bad_shards="
                f"{max_bad_shards:g} allows; for example {bad[0]}"
            )
        self._keys, self._owners = np.concatenate(keys), np.concatenate(owners)
        self._spans = {member: np.concatenate(found) for member, found in spans.items()}
        self.begin(len(self._keys))
        if self.strict:  # in training, shards that all count from 0 are no mistake
            self.check_ids(np.array([hash(key) for key in self._keys.tolist()], dtype=np.int64))

    def _members(self) -> list[str]:
        """The members that are read, each once: extension, or alternatives."""
        wanted = (place for places in self.fields.values() for place in places)
        return list(dict.fromkeys(_member(place) for place in wanted))

    def _complete(self, path: Path, shard: Shard, places: dict[str, np.ndarray]) -> np.ndarray:
        """Which samples have a member for every required field; (n,) bool."""
        good = np.ones(len(shard.keys), dtype=bool)
        for name in REQUIRED[self.task]:
            for place in self.fields[name]:
                has = places[_member(place)][:, 1] >= 0
                for key in shard.keys[good & ~has].tolist():
                    self.reject(f"{path} (id {key.decode()})", BadRow(f"no {name}", f"no member {_member(place)}"))
                good &= has
        return good

    # -- samples --------------------------------------------------------------------------------------------------

    def load(self, row: int, pictures: tuple[str, ...]) -> Example:
        read: dict[str, Any] = {}
        fields: dict[str, Any] = {}
        for name, places in self.fields.items():
            if name not in PICTURES:
                fields[name] = self._text(row, name, places[0], read)
            elif name in pictures:
                fields[name] = [self._bytes(row, place) for place in places]
        key = self._keys[row].decode()
        if fields.get("id") is None:
            fields["id"] = key
        found = text_fields(fields, self.task, key)
        if self.task == "caption" and not found["prompt"]:
            found["prompt"] = self.prompt
        for name in set(PICTURES) & fields.keys():
            images = [decode_image(data, f"its {name}") for data in fields[name]]
            found[name] = tuple(images) if len(images) > 1 else images[0]
        return Example(**found)

    def where(self, row: int) -> str:
        return f"{self.paths[self._owners[row]]} (id {self._keys[row].decode()})"

    def _bytes(self, row: int, place: str) -> bytes | None:
        offset, size = self._spans[_member(place)][row].tolist()
        return read_member(self.paths[self._owners[row]], offset, size) if size >= 0 else None

    def _text(self, row: int, name: str, place: str, read: dict[str, Any]) -> Any:
        """A text member, or one key of a JSON member; those `read` already are not read again."""
        member, colon, key = place.partition(":")
        if member + colon not in read:
            data = self._bytes(row, member)
            read[member + colon] = (decode if colon else _utf8)(data) if data is not None else None
        value = read[member + colon]
        if colon and value is not None:
            value = value.get(key)
        return [value] if name == "answers" and isinstance(value, str) else value


def _member(place: str) -> str:
    return place.partition(":")[0]


def _fields(given: dict[str, str | list[str]] | None, task: Task) -> dict[str, list[str]]:
    """Where to find the fields of the task, each as a list."""
    given = OWN if given is None else given
    if unknown := sorted(given.keys() - set(FIELDS)):
        raise ValueError(f"fields names {unknown[0]!r}, which is none of {', '.join(FIELDS)}")
    if missing := [name for name in REQUIRED[task] if name not in given]:
        raise ValueError(f"fields must say where the samples have {missing[0]!r}, which task {task} needs")
    given = {name: place for name, place in given.items() if name in (*REQUIRED[task], "prompt", "id", "meta")}
    found = {name: [place] if isinstance(place, str) else list(place) for name, place in given.items()}
    for name, places in found.items():
        if not places or (len(places) > 1 and name != "image"):
            raise ValueError(f"fields.{name} must name one member; only image may be a list of several")
        if any((":" in place) != (JSON in place) or (":" in place and name in PICTURES) for place in places):
            raise ValueError(f"fields.{name} must be an extension, or json:KEY for text; got {places[0]!r}")
    return found


def _find(shards: str | list[str]) -> list[Path]:
    """The files that patterns name. A name without * and ? stays, file or no file: a missing shard is a bad one."""
    found: list[str] = []
    for name in (n for pattern in ([shards] if isinstance(shards, str) else shards) for n in expand(pattern)):
        matches = sorted(glob.glob(name)) if set(name) & set("*?[") else [name]
        if not matches:
            raise ValueError(f"{name}: no such shard")
        found += matches
    return [Path(name) for name in dict.fromkeys(found)]


def _locate(shard: Shard, member: str) -> np.ndarray:
    """Offset and size (n, 2) of the first of the alternatives that a sample has, size -1 for none."""
    found = np.full((len(shard.keys), 2), -1, dtype=np.int64)
    for extension in reversed(member.split(";")):
        if extension in shard.extensions:
            column = shard.extensions.index(extension)
            has = shard.sizes[:, column] >= 0
            found[has] = np.stack([shard.offsets[has, column], shard.sizes[has, column]], axis=1)
    return found


def _open_or_empty(path: Path, folder: Path | None) -> Shard:
    """The index of a shard; that of a missing one is empty, and says so."""
    try:
        return open_shard(path, folder)
    except OSError as error:
        return Shard(np.array([], np.bytes_), [], *np.empty((2, 0, 0), np.int64), [], f"{error.strerror}")


def _utf8(data: bytes) -> str:
    try:
        return lines.decode(data)
    except UnicodeDecodeError as error:
        raise BadRow("bad text", f"not UTF-8 ({error.reason})") from error
