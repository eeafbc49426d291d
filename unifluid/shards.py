"""Tensors that many processes hold in shards: their parts, and their files in torch's distributed checkpoint format.

Each process writes its own shards; any number of processes reads them, each what it needs. What is read is held against
the CRC that torch wrote beside it, and the format's table of contents, a pickle, may name nothing but its own classes.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.futures import Future

Key = tuple[Any, ...]  # where in a checkpoint: ("state_dict", "model.boi"), ("optimizer_states", 0, "state", 3, …)
Place = Callable[[Key, Tensor], Tensor]  # where to, and a meta tensor of the shape → empty storage to read into

CONTENTS = ".metadata"
CLASSES = {
    "torch.distributed.checkpoint.metadata": {*metadata.__all__, "_MEM_FORMAT_ENCODING"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # its name from Python 3.13 on
}


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on every process, all of which must ask for it; itself where it is not sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same storage; itself where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every process has in full, sharded as `like` is; itself where that is not sharded."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def map_tensors(function: Callable[[Key, Tensor], Any], tree: Any, key: Key = ()) -> Any:
    """`tree` with every tensor in its dictionaries, lists and tuples replaced by function(where it is, tensor)."""
    if isinstance(tree, Tensor):
        return function(key, tree)
    if isinstance(tree, dict):
        return {name: map_tensors(function, value, (*key, name)) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(function, value, (*key, i)) for i, value in enumerate(tree))
    return tree


def write(checkpoint: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the shards in `checkpoint` -> the rest, with meta tensors in their places. Every process takes part."""
    shards: dict[str, Tensor] = {}

    def cut_out(key: Key, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        shards[_name(key)] = tensor
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    rest = map_tensors(cut_out, checkpoint)
    dcp.save(shards, storage_writer=dcp.FileSystemWriter(folder))
    return rest


def read(rest: dict[str, Any], folder: Path, place: Place | None = None, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """The inverse of `write`: fills the meta tensors of `rest`, but for entries named in `skip`.

    Without `place` tensors are whole, and this process reads alone; with it, every process takes part.
    Raises ValueError naming the folder and what is damaged.
    """
    found: dict[str, Tensor] = {}

    def allocate(key: Key, tensor: Tensor) -> Tensor:
        if not tensor.is_meta or key[0] in skip:
            return tensor
        found[_name(key)] = place(key, tensor) if place else torch.empty_like(tensor, device="cpu")
        return found[_name(key)]

    filled = map_tensors(allocate, rest)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.distributed.*", category=UserWarning)
            dcp.load(found, storage_reader=_Reader(folder), no_dist=place is None)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise ValueError(f"{folder}: damaged ({str(cause).splitlines()[0]})") from error
    return filled


def verify(folder: Path) -> None:
    """Whether the table of contents is readable and no file has been cut short. Raises ValueError."""
    try:
        infos = _Reader(folder).read_metadata().storage_data.values()
        for info in infos:
            file = folder / info.relative_path
            if file.stat().st_size < info.offset + info.length:
                raise ValueError(f"{file.name} has been cut short")
    except Exception as error:  # a damaged pickle makes pickle raise nearly anything
        raise ValueError(f"{folder}: damaged or not a checkpoint ({error})") from error


def _name(key: Key) -> str:
    return "/".join(map(str, key))


class _Reader(dcp.FileSystemReader):
    """torch's reader, which trusts its files, made to check them."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        with (Path(self.path) / CONTENTS).open("rb") as file:
            contents = _Contents(file).load()
        contents.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        return contents

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for index in {item.storage_index for item in plan.items}:
            _check(Path(self.path), self.storage_data[index])
        return super().read_data(plan, planner)


class _Contents(pickle.Unpickler):
    """Unpickles plain data and the format's own classes."""

    def find_class(self, module: str, name: str) -> Any:
        if name not in CLASSES.get(module, ()):
            raise ValueError(f"{CONTENTS} is refused: it names {module}.{name}")
        return super().find_class(module, name)


def _check(folder: Path, info: _StorageInfo) -> None:
    """Hold one stored tensor, a zip archive within a file, against its CRCs."""
    path = folder / info.relative_path
    if path.parent != folder:
        raise ValueError(f"{CONTENTS} names a file elsewhere, {info.relative_path}")
    with path.open("rb") as file:
        file.seek(info.offset)
        data = file.read(info.length)
    try:
        bad = zipfile.ZipFile(io.BytesIO(data)).testzip()
    except Exception as error:  # a damaged directory makes zipfile raise nearly anything
        raise ValueError(f"{path.name}: {error}") from error
    if bad is not None:
        raise ValueError(f"{path.name}: {bad} does not match its checksum")
