"""Checkpoint files: written whole or not at all, verified before use, and read as plain data only.

A checkpoint is torch's zip archive, which carries a CRC of every record, so no manifest can be out of step with it. It
is written to a temporary file in its own folder, flushed to disk and renamed. The file it replaces is kept as
NAME.previous.ckpt: if the disk damages the newest, one save interval is lost and not the run.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO

LAST = "last.ckpt"


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
        Path(path).unlink(missing_ok=True)
        previous(path).unlink(missing_ok=True)


def previous(path: str | Path) -> Path:
    """Where the checkpoint that `path` replaced is kept."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Write `checkpoint` to `path`. On an OSError, which names `path`, what was there before is untouched."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")  # one name: what a killed process left is overwritten
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, previous(path))
        os.replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        # torch's writer wraps the OSError of a full disk in a RuntimeError about file positions.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, OSError):
            raise OSError(cause.errno, f"the checkpoint cannot be written: {cause.strerror}", str(path)) from error
        raise


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(path: str | Path) -> None:
    """Read all of `path` against its CRCs. Raises FileNotFoundError, or ValueError if it is damaged."""
    if not Path(path).is_file():
        raise FileNotFoundError(2, "no such checkpoint", str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        raise ValueError(f"{path}: damaged or not a checkpoint ({error})") from error
    if bad is not None:
        raise ValueError(f"{path}: damaged, {bad} does not match its checksum")


def load(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """The verified checkpoint at `path`, on the CPU. Raises FileNotFoundError or ValueError; never runs stored code."""
    verify(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(f"{path}: refused, it holds {code[1] if code else 'objects'}, not only plain data") from error
    except Exception as error:  # torch raises nearly anything on a zip archive of something else
        raise ValueError(f"{path}: not a checkpoint ({str(error).splitlines()[0]})") from error


def latest(folder: str | Path) -> Path | None:
    """The newest valid checkpoint of a run, None where it has none yet.

    A damaged last.ckpt is passed over with a warning; ValueError if the one before is damaged or missing too.
    """
    newest = Path(folder) / LAST
    damage: ValueError | None = None
    if newest.is_dir():  # of a sharded strategy: torch's distributed checkpoint, with checks of its own
        return newest
    for path in (newest, previous(newest)):
        if path.is_file():
            try:
                verify(path)
                return path
            except ValueError as error:
                damage = damage or error
                warnings.warn(f"{error}; looking for the one before", stacklevel=2)
    if damage:
        raise ValueError(f"{damage}, and there is no valid one before it")
    return None
