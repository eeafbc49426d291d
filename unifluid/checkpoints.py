"""What a checkpoint means: a model's config, weights (raw and EMA) and text tokenizer, from which it is rebuilt.

A checkpoint holds, beside Lightning's training state, `config` (`configs.describe`), `tokenizer` (its bytes, as a uint8
tensor) and, where an EMA is kept, `ema` (parameter name → fp32). An exported folder holds one set of weights as
model.safetensors, with config.json and tokenizer.model or tokenizer.json.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unifluid import __version__, storage
from unifluid.configs import ALLOWED, Config, build, describe, difference, parts, with_defaults
from unifluid.interfaces import TextTokenizer

Weights = Literal["ema", "raw"]

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")  # SentencePiece's, and that of `tokenizers`
READ_WITH = ("prefix",)  # settings, beside the parts, with which weights must be read
# Settings that may differ when a run goes on: no weight depends on them.
FREE = ("compile", "init_from", "init_weights", "sampling")


@dataclass
class Stored:
    """A model in a file: `tensors` under the names of the module's state_dict, which weights of which step."""

    path: Path
    config: Config
    tensors: dict[str, Tensor]
    tokenizer: bytes | None
    weights: Weights
    step: int = 0  # not known of exports of earlier versions

    def build(self, allowed: tuple[str, ...] = ALLOWED) -> L.LightningModule:
        """The module rebuilt, strictly, in evaluation mode on the CPU."""
        module = build(self.config, allowed)
        if self.tokenizer is not None:
            module.text_tokenizer.load_state(self.tokenizer)
        module.configure_model()
        try:
            module.load_state_dict(self.tensors)
        except RuntimeError as error:
            raise ValueError(f"{self.path}: its weights do not fit its config: {_first_problem(error)}") from error
        return module.eval()


def read(path: str | Path, weights: Weights | None = None) -> Stored:
    """A checkpoint file, an exported folder, or a run's. `weights` None: the EMA where there is one.

    Raises FileNotFoundError or ValueError in one line that names the file: also for weights that are not finite.
    """
    path = storage.find(path)
    exported = path.is_dir() and not storage.is_sharded(path)
    stored = _read_folder(path) if exported else _read_checkpoint(path, weights)
    if weights not in (None, stored.weights):
        raise ValueError(f"{path}: holds {stored.weights} weights only, but {weights} were asked for")
    for name, tensor in stored.tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {name} holds NaN or infinity, so the training that wrote it went astray: take an earlier "
                "checkpoint (callbacks.NonFiniteGuard keeps such steps out)"
            )
    return stored


def read_config(path: str | Path) -> tuple[Config, bool]:
    """The config of the model in a checkpoint or an exported folder, and whether it has an EMA. Errors as of `read`."""
    path = storage.find(path)
    if is_exported(path):
        exported = _read_folder(path)
        return exported.config, exported.weights == "ema"
    checkpoint = storage.load(path, mmap=True, skip=("optimizer_states", "state_dict", "ema"))
    return _stored_config(checkpoint, path), bool(checkpoint.get("ema"))


def is_exported(path: str | Path) -> bool:
    """Whether `path` is a folder that `export` wrote: `CONFIG_FILE` comes last."""
    return all((Path(path) / name).is_file() for name in (WEIGHTS_FILE, CONFIG_FILE))


class CheckpointIO(storage.AtomicCheckpointIO):
    """Lightning's way to checkpoints, and to exported folders, whose weights can be evaluated."""

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return _as_checkpoint(read(path)) if is_exported(path) else super().load_checkpoint(path)


def _as_checkpoint(stored: Stored) -> dict[str, Any]:
    """An exported model as Lightning restores it; `unpack_model` adds the EMA, if that is what was exported."""
    checkpoint = {"config": stored.config, "state_dict": stored.tensors, "exported": stored.weights}
    if stored.tokenizer is not None:
        checkpoint["tokenizer"] = _tensor(stored.tokenizer)
    return checkpoint | {"global_step": stored.step, "callbacks": {}, "pytorch-lightning_version": L.__version__}


def _read_checkpoint(path: Path, weights: Weights | None) -> Stored:
    checkpoint = storage.load(path, mmap=True, skip=("optimizer_states",))  # that stays on disk
    config, tensors = _stored_config(checkpoint, path), checkpoint["state_dict"]
    tokenizer = _bytes(checkpoint["tokenizer"]) if "tokenizer" in checkpoint else None
    step = checkpoint.get("global_step", 0)
    if weights == "raw" or not checkpoint.get("ema"):
        return Stored(path, config, tensors, tokenizer, "raw", step)
    return Stored(path, config, {**tensors, **checkpoint["ema"]}, tokenizer, "ema", step)


def _stored_config(checkpoint: Any, where: str | Path) -> Config:
    if not isinstance(checkpoint, dict) or "config" not in checkpoint or "state_dict" not in checkpoint:
        raise ValueError(f"{where}: not a checkpoint of unifluid, it holds no config")
    return checkpoint["config"]


def _read_folder(path: Path) -> Stored:
    try:
        about = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(path / WEIGHTS_FILE)
        config, weights, step = about["config"], about["weights"], int(about.get("step", 0))
    except FileNotFoundError as error:
        name = Path(error.filename or WEIGHTS_FILE).name
        raise ValueError(
            f"{path}: no run, it holds no {storage.LAST}, and not an exported model, {name} is missing"
        ) from error
    except (ValueError, SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: the exported model is damaged ({error})") from error
    tokenizer = _tokenizer_file(path)
    return Stored(path, config, tensors, tokenizer.read_bytes() if tokenizer else None, weights, step)


def export(
    path: str | Path, out: str | Path, weights: Weights | None = None, dtype: torch.dtype | None = None
) -> Stored:
    """Write the model in `path` as a folder `out` of safetensors, config and tokenizer.

    `dtype`: of the floating-point tensors in the file, default as they are; a model read from it has its own again.
    """
    stored, out = read(path, weights), Path(out)
    if dtype is not None:
        stored.tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in stored.tensors.items()}
        if name := next((n for n, t in stored.tensors.items() if not t.isfinite().all()), None):
            raise ValueError(f"{path}: {name} has values too large for {str(dtype).removeprefix('torch.')}")
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG_FILE).unlink(missing_ok=True)  # comes last: a folder that has it is complete
    partial = out / f".{WEIGHTS_FILE}.partial"
    try:  # clone: safetensors refuses tensors that share memory, as tied weights do
        partial.touch()
        mode = partial.stat().st_mode  # that of any file made here: safetensors lets nobody else read its own
        save_file({name: t.contiguous().clone() for name, t in stored.tensors.items()}, partial)
        partial.chmod(mode)
        os.replace(partial, out / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{out / WEIGHTS_FILE} cannot be written: {error}") from error
    for name in TOKENIZER_FILES:  # of a former export
        (out / name).unlink(missing_ok=True)
    if stored.tokenizer is not None:
        is_json = stored.tokenizer.lstrip().startswith(b"{")  # by content: no name in a checkpoint decides on a path
        (out / TOKENIZER_FILES[is_json]).write_bytes(stored.tokenizer)
    about = {"unifluid": __version__, "weights": stored.weights, "step": stored.step, "config": stored.config}
    (out / CONFIG_FILE).write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
    return stored


def pack_model(checkpoint: dict[str, Any], module: L.LightningModule, tokenizer: TextTokenizer | None = None) -> None:
    """Put into `checkpoint` what rebuilds `module`, which is `Recorded`, for its `on_save_checkpoint`."""
    checkpoint["config"] = describe(module)
    if tokenizer is not None:
        checkpoint["tokenizer"] = _tensor(tokenizer.state())


def unpack_model(
    checkpoint: dict[str, Any],
    module: L.LightningModule,
    tokenizer: TextTokenizer | None = None,
    parts_only: bool = False,
) -> None:
    """For the `on_load_checkpoint` of a module about to go on from `checkpoint`: restores the tokenizer.

    Raises ValueError naming the first setting in which the two differ; Lightning alone would say nothing. An evaluation
    compares what the weights belong to (`parts_only`): the parts of the model, not how they were trained or are drawn.
    """
    here = describe(module)
    there = with_defaults(_stored_config(checkpoint, "the checkpoint"), here)
    if parts_only:
        here, there = ({**config, "init_args": _of_weights(module, config)} for config in (here, there))
    for name in FREE:
        here["init_args"].pop(name, None)
        there["init_args"].pop(name, None)
    found = difference(here, there)
    if found:
        name, ours, theirs = found
        if parts_only:
            advice = "give that value, or a config without a model, which then is the checkpoint's"
        else:
            advice = "give that value to go on, --resume false to start over, or for a new run another "
            advice += "--trainer.default_root_dir, and --model.init_args.init_from to start from its weights"
        raise ValueError(f"{f'model.{name}'.rstrip('.')} is {ours} here but {theirs} in the checkpoint: {advice}")
    odd = sorted(module.state_dict().keys() ^ checkpoint["state_dict"].keys())
    if odd:  # the same settings, but of a class that has changed since
        raise ValueError(
            f"the checkpoint does not fit this version of the model: {odd[0]} and {len(odd) - 1} more differ"
        )
    if checkpoint.get("exported") == "ema":  # of which tensors there is an average, only the module can say
        averaged = (name for name, _ in module.named_parameters())
        checkpoint["ema"] = {name: checkpoint["state_dict"][name].float() for name in averaged}
    if tokenizer is not None:
        tokenizer.load_state(_bytes(checkpoint["tokenizer"]))


def _of_weights(module: L.LightningModule, config: Config) -> Config:
    """What weights belong to: the parts, without the arguments that say how is drawn, and how a prefix is read."""
    model, given = getattr(module, "model", None), config["init_args"]
    found = {name: given[name] for name in READ_WITH if name in given}
    for name, part in parts(config).items():
        drawing = getattr(getattr(model, name, None), "drawing", ())
        kept = {key: value for key, value in part["init_args"].items() if key not in drawing}
        found[name] = {**part, "init_args": kept}
    return found


def _tensor(state: bytes) -> Tensor:
    """By way of no list: a vocabulary may have 30 MB."""
    return torch.frombuffer(bytearray(state), dtype=torch.uint8) if state else torch.empty(0, dtype=torch.uint8)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def read_tokenizer(path: str | Path) -> bytes | None:
    """The text tokenizer in a checkpoint file or an exported folder, if it holds one. Errors as of `read`."""
    path = storage.find(path)
    if path.is_dir() and not storage.is_sharded(path):
        found = _tokenizer_file(path)
        return found.read_bytes() if found else None
    checkpoint = storage.load(path, mmap=True, skip=("optimizer_states", "state_dict", "ema"))
    return _bytes(checkpoint["tokenizer"]) if "tokenizer" in checkpoint else None


def _tokenizer_file(folder: Path) -> Path | None:
    return next((folder / name for name in TOKENIZER_FILES if (folder / name).exists()), None)


def _first_problem(error: RuntimeError) -> str:
    """torch lists all that does not fit, a line each, after a headline."""
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1] if len(lines) > 1 else lines[0]
