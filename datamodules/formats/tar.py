"""Tar shards read by index: one scan of the headers says where each member's bytes are; nothing is ever extracted.

The members of a sample stand together and share the name up to the first dot of its last part: 00/12.jpg and 00/12.txt
are the sample 00/12 with the extensions jpg and txt (the WebDataset convention). Members that do not come from such a
writer – links, devices, paths that leave the shard, pickles – spoil their sample, which is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.formats.rows import BadRow

log = logging.getLogger(__name__)

VERSION = 1  # of the index files
BLOCK = tarfile.BLOCKSIZE
PICKLES = ("pkl", "pickle", "pyd", "pth", "pt")  # formats that can run code when they are read


@dataclass
class Shard:
    """What a shard holds: n samples with E different extensions.

    keys (n,) bytes · offsets, sizes (n, E) of the members in the file, size -1 where a sample has none ·
    refused: (key, reason, detail) of samples that are left out · damage: why the shard ends early, or "".
    """

    keys: np.ndarray
    extensions: list[str]
    offsets: np.ndarray
    sizes: np.ndarray
    refused: list[tuple[str, str, str]]
    damage: str = ""


def open_shard(path: Path, folder: Path | None = None) -> Shard:
    """The index of shard `path`, from its file in `folder` (default: beside the shard) if that is still true of it."""
    place = _place(path, folder)
    stat = path.stat()
    stamp = [VERSION, stat.st_size, stat.st_mtime_ns]
    found = _read(place, stamp)
    if found is None:
        found = scan(path)
        try:
            _write(place, stamp, found)
        except OSError as error:
            log.warning("%s: the index cannot be kept (%s); give `index` a folder to write to", place, error.strerror)
    return found


def scan(path: Path) -> Shard:
    """Read all headers of a shard. Damage ends the scan: what came before it is kept, but for the sample it may cut."""
    samples: list[tuple[str, dict[str, tuple[int, int]]]] = []
    refused: dict[int, tuple[str, str, str]] = {}
    damage = ""
    try:
        for name, member in _members(path):
            key, _, extension = _split(name)
            if not key:
                continue
            if not samples or samples[-1][0] != key:
                samples.append((key, {}))
            last = samples[-1][1]
            if error := _refusal(name, member) or _repetition(extension, last):
                refused.setdefault(len(samples) - 1, (key, *error))
            last[extension] = member.offset_data, member.size
    except (tarfile.TarError, OSError, ValueError) as error:
        damage = str(error) or type(error).__name__
        samples = samples[:-1]
    good = [sample for i, sample in enumerate(samples) if i not in refused]
    extensions = sorted({extension for _, members in good for extension in members})
    place = {extension: column for column, extension in enumerate(extensions)}
    spans = np.full((len(good), len(extensions), 2), -1, dtype=np.int64)
    for row, (_, members) in enumerate(good):
        for extension, span in members.items():
            spans[row, place[extension]] = span
    keys = np.array([key.encode() for key, _ in good], dtype=np.bytes_)
    return Shard(keys, extensions, spans[..., 0], spans[..., 1], list(refused.values()), damage)


def read_member(path: Path, offset: int, size: int) -> bytes:
    """The bytes of one member. Raises BadRow if the shard has become shorter or is gone."""
    try:
        with path.open("rb") as file:  # opened anew: workers that share a handle would move it under each other
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise BadRow("corrupt shard" if path.exists() else "missing shard", f"{path}: {error.strerror}") from error
    if len(data) != size:
        raise BadRow("corrupt shard", f"{path} ends within a member")
    return data


def expand(pattern: str) -> list[str]:
    """Braces in a name as the shell expands them: {000..120} counts, {a,b} lists. In order."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    inner = match[1]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        first, last = span.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices = [f"{i:0{width}d}" for i in range(int(first), int(last) + 1)]
    else:
        choices = inner.split(",")
    return [whole for c in choices for whole in expand(pattern[: match.start()] + c + pattern[match.end() :])]


def _members(path: Path) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Names and headers of all members but folders. Raises where the archive is not what its headers say."""
    size = path.stat().st_size
    with tarfile.open(path, "r:") as tar:  # compressed archives have no offsets
        while (member := tar.next()) is not None:
            tar.members.clear()  # they would fill the memory
            if member.size < 0:  # the next header would be an earlier one, for ever
                raise tarfile.ReadError(f"{member.name} has a size of {member.size}")
            if member.isreg() and member.offset_data + member.size > size:
                raise tarfile.ReadError(f"ends within {member.name}")
            if not member.isdir():
                name = member.name.encode(errors="replace").decode()  # names that are no UTF-8 come as surrogates
                yield name.removeprefix("./"), member
        # tarfile takes a broken header for the end of the archive, and so a missing end, and a hole full of zeros.
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError(f"no valid header at byte {tar.offset}")
        while rest := tar.fileobj.read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"data after the end at byte {tar.offset}")


def _split(name: str) -> tuple[str, str, str]:
    """Name -> key, ".", extension. Hidden files and those without an extension have no key."""
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    return (f"{folder}{slash}{stem}" if stem and dot else ""), dot, extension


def _refusal(name: str, member: tarfile.TarInfo) -> tuple[str, str] | None:
    """Reason and detail where a member has no place in a data set."""
    if not member.isreg() or member.issparse():
        return "refused member", f"{name} is a link, a device or sparse"
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name):
        return "refused member", f"{name} leaves the shard"
    if name.rpartition(".")[2].lower() in PICKLES:
        return "refused member", f"{name} is a pickle, which can run code"
    return None


def _repetition(extension: str, members: dict[str, tuple[int, int]]) -> tuple[str, str] | None:
    return ("repeated member", f"{extension} occurs twice") if extension in members else None


# -- index files --------------------------------------------------------------------------------------------------


def _place(path: Path, folder: Path | None) -> Path:
    if folder is None:
        return path.with_name(f"{path.name}.index.npz")
    digest = hashlib.blake2b(str(path.resolve()).encode(), digest_size=6).hexdigest()  # shards of all folders meet here
    return folder / f"{path.stem}-{digest}.index.npz"


def _read(place: Path, stamp: list[int]) -> Shard | None:
    """The index, if it is whole and of this very file: plain arrays and JSON, no pickle."""
    try:
        with np.load(place, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            if about["stamp"] != stamp:
                return None
            refused = [tuple(entry) for entry in about["refused"]]
            return Shard(
                stored["keys"], about["extensions"], stored["offsets"], stored["sizes"], refused, about["damage"]
            )
    except Exception:  # noqa: BLE001 - an index that cannot be read for whatever reason is made anew
        return None


def _write(place: Path, stamp: list[int], shard: Shard) -> None:
    about = {"stamp": stamp, "extensions": shard.extensions, "refused": shard.refused, "damage": shard.damage}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        keys=shard.keys,
        offsets=shard.offsets,
        sizes=shard.sizes,
        about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
    )
    write_whole(place, buffer.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, whoever else may be writing it too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
