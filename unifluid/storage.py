"""Checkpoint files: written whole or not at all, verified before use, and read as plain data only.

A checkpoint is torch's zip archive, which carries a CRC of every record, so no manifest can be out of step with it. It
is written to a temporary file in its own folder, flushed to disk and renamed. The file it replaces is kept as
NAME.previous.ckpt: if the disk damages the newest, one save interval is lost and not the run.

A checkpoint of a sharded run is a folder, written and renamed alike: meta.pt is such an archive, without the tensors
that processes hold in shards; those are beside it (`shards`). Everything here takes either.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO

from unifluid import shards

LAST = "last.ckpt"
META = "meta.pt"


class AtomicCheckpointIO(CheckpointIO):
    """Lightning's way of writing and reading checkpoints, through this module."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        save(checkpoint, path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Never anything but plain data and tensors, whatever `weights_only` says."""
        return load(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        _remove(Path(path))
        _remove(previous(path))


def previous(path: str | Path) -> Path:
    """Where the checkpoint that `path` replaced is kept."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write `checkpoint` to `path`. On an OSError, which names `path`, what was there before is untouched."""
    path = Path(path)
    partial = unfinished(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        _install(partial, path)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        # torch's writer wraps the OSError of a full disk in a RuntimeError about file positions.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, f"the checkpoint cannot be written: {cause.strerror}", str(path)) from error
        raise


def start_sharded(path: str | Path) -> Path:
    """An empty folder into which a sharded checkpoint is to be written, for `finish_sharded`. On one process."""
    partial = unfinished(path)
    _remove(partial)
    partial.mkdir(parents=True)
    return partial


def finish_sharded(rest: dict[str, Any], path: str | Path) -> None:
    """All shards are written: add `rest`, what is not sharded, and make it the checkpoint. On one process."""
    partial = unfinished(path)
    save(rest, partial / META)
    _install(partial, Path(path))


def unfinished(path: str | Path) -> Path:
    """Where a checkpoint is written. Always the same name: what a killed process left is overwritten."""
    path = Path(path)
    return path.with_name(f".{path.name}.partial")


def _install(partial: Path, path: Path) -> None:
    """`partial` becomes `path`, what was there becomes `previous(path)`."""
    if path.exists():
        before = previous(path)
        if before.is_dir() or path.is_dir():  # a file is replaced in one go
            _remove(before)
        os.replace(path, before)
    os.replace(partial, path)
    _sync_folder(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(path: str | Path) -> None:
    """Read all of `path` against its CRCs. Raises FileNotFoundError, or ValueError if it is damaged.

    Of a folder the small parts: its shards are looked at when they are read, by the processes that need them.
    """
    if is_sharded(path):
        verify(Path(path) / META)
        shards.verify(Path(path))
        return
    if Path(path).is_dir():
        raise ValueError(f"{path}: damaged or not a checkpoint ({META} is missing)")
    if not Path(path).is_file():
        raise FileNotFoundError(2, "no such checkpoint", str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        raise ValueError(f"{path}: damaged or not a checkpoint ({error})") from error
    if bad is not None:
        raise ValueError(f"{path}: damaged, {bad} does not match its checksum")


def is_sharded(path: str | Path) -> bool:
    """Whether `path` is the checkpoint of a sharded run."""
    return (Path(path) / META).is_file()


def load(
    path: str | Path, mmap: bool = False, place: shards.Place | None = None, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The verified checkpoint at `path`, on the CPU. Raises FileNotFoundError or ValueError; never runs stored code.

    Of a sharded one, `place` says into what its shards are read (default: whole tensors), and entries named in `skip`
    are not read: meta tensors stand in their place.
    """
    if is_sharded(path):
        verify(path)
        return shards.read(load(Path(path) / META), Path(path), place, skip)
    verify(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(f"{path}: refused, it holds {code[1] if code else 'objects'}, not only plain data") from error
    except Exception as error:  # torch raises nearly anything on a zip archive of something else
        raise ValueError(f"{path}: not a checkpoint ({str(error).splitlines()[0]})") from error


def find(path: str | Path) -> Path:
    """`path`, or where that is a run's folder, its newest valid checkpoint. Errors as of `latest`."""
    path = Path(path)
    return latest(path) or path if path.is_dir() and not is_sharded(path) else path


def latest(folder: str | Path) -> Path | None:
    """The newest valid checkpoint of a run, None where it has none yet.

    A damaged last.ckpt is passed over with a warning; ValueError if the one before is damaged or missing too.
    """
    newest = Path(folder) / LAST
    damage: ValueError | None = None
    for path in (newest, previous(newest)):
        if path.exists():
            try:
                verify(path)
                return path
            except ValueError as error:
                damage = damage or error
                warnings.warn(f"{error}; looking for the one before", stacklevel=2)
    if damage:
        raise ValueError(f"{damage}, and there is no valid one before it")
    return None
