"""A run that starts from the weights of another model (`model.init_from`): which are taken, and which begin anew."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from unifluid.checkpoints import Stored, Weights, read
from unifluid.configs import Config, describe, parts
from unifluid.interfaces import TextTokenizer
from unifluid.paligemma import is_paligemma, read_paligemma

FILES = ("weights", "pretrained", "model_file", "file")  # arguments by which a part names what it reads


def start_from(module: L.LightningModule, path: str | Path, weights: Weights | None = None) -> None:
    """Take weights and tokenizer from `path` into a fresh module; what is missing or extra is reported once.

    A part that names other weights than the model in `path` began with keeps them; one of another class that these do
    not fit begins anew. Raises ValueError for a tensor of another shape in a part of the same class, where no name
    matches, or where the module names another text tokenizer: embeddings mean nothing without the vocabulary they were
    learned with.
    """
    stored = _read_paligemma(module, Path(path)) if is_paligemma(path) else read(path, weights)
    here = describe(module)
    kept = keep_named(here, stored, "model.")
    if stored.tokenizer is not None:
        _take_tokenizer(module.text_tokenizer, here, stored)
    state = module.state_dict()
    own, given = ({_bare(name): name for name in names} for names in (state, stored.tensors))
    if not own.keys() & given.keys():
        raise ValueError(f"model.init_from: no weight in {path} has a name of this model")
    for part, classes in other_parts(here, stored.config).items():
        names = {name for name in own.keys() & given.keys() if name.startswith(f"model.{part}.")}
        if any(state[own[name]].shape != stored.tensors[given[name]].shape for name in names):
            rank_zero_warn(f"init_from: {part} begins anew, {classes}")
            given = {name: full for name, full in given.items() if not name.startswith(f"model.{part}.")}
    shared = own.keys() & given.keys()
    for name in sorted(shared):
        ours, theirs = tuple(state[own[name]].shape), tuple(stored.tensors[given[name]].shape)
        if ours != theirs:
            raise ValueError(f"model.init_from: {name} has shape {ours} here but {theirs} in {path}")
    module.load_state_dict({own[name]: stored.tensors[given[name]] for name in shared}, strict=False)
    rank_zero_info(f"init_from: {len(shared)} tensors from {path} ({stored.weights} weights)")
    _say(path, "keep their initial values", [name for name in own.keys() - shared if not name.startswith(kept)])
    _say(path, "are left out", given.keys() - shared)


def _say(path: str | Path, what: str, names: Collection[str]) -> None:
    """What becomes of tensors that are on one side only."""
    if names:
        some = ", ".join(sorted(names)[:5]) + ", …" * (len(names) > 5)
        rank_zero_warn(f"init_from {path}: {len(names)} tensors {what}: {some}")


def keep_named(here: Config, stored: Stored, prefix: str = "") -> tuple[str, ...]:
    """Leave out of `stored` the tensors of parts for which `here` names other weights than `stored` began with.

    Returns the prefixes of their names.
    """
    prefixes = []
    for name, part in here["init_args"].items():
        own, began = _file_of(part), _file_of(stored.config.get("init_args", {}).get(name))
        if own is None or own == began or name == "text_tokenizer":
            continue
        theirs = [tensor for tensor in stored.tensors if tensor.startswith(f"{prefix}{name}.")]
        for tensor in theirs:
            del stored.tensors[tensor]
        if theirs:
            prefixes.append(f"{prefix}{name}.")
            rank_zero_warn(
                f"init_from: {name} keeps the weights {own} that it names; null there takes those of {stored.path}"
            )
    return tuple(prefixes)


def other_parts(here: Config, there: Config) -> dict[str, str]:
    """The parts that are of another class in `there`, and both classes in words."""
    began, classes = parts(there) if there.get("init_args") else {}, {}
    for name, part in parts(here).items():
        ours, theirs = part["class_path"], began.get(name, part)["class_path"]
        if ours != theirs:
            classes[name] = f"{ours.rpartition('.')[2]} here, {theirs.rpartition('.')[2]} there"
    return classes


def _file_of(part: Any) -> str | None:
    """The file, folder or hub name that a part reads, if its settings name one."""
    arguments = part.get("init_args") if isinstance(part, dict) else None
    return next((arguments[name] for name in FILES if arguments.get(name) is not None), None) if arguments else None


def _take_tokenizer(tokenizer: TextTokenizer, here: Config, stored: Stored) -> None:
    own, began = (_file_of(config["init_args"].get("text_tokenizer")) for config in (here, stored.config))
    if own is not None and own != began and tokenizer.state() != stored.tokenizer:
        raise ValueError(
            f"model.text_tokenizer reads {own}, but the weights of model.init_from {stored.path} belong to another "
            "vocabulary: name that, or none"
        )
    tokenizer.load_state(stored.tokenizer)


def _read_paligemma(module: L.LightningModule, path: Path) -> Stored:
    tensors = read_paligemma(path, module.model.backbone, module.model.image_encoder)
    return Stored(path, {}, {f"model.{name}": tensor for name, tensor in tensors.items()}, None, "raw")


def _bare(name: str) -> str:
    """The name of a tensor without adapters: LoRA moves what it adapts one level down."""
    return name.replace(".base_layer.", ".")
