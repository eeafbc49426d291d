"""Pretrained weights: found in files and folders or by name on a hub, read as plain tensors, fitted to a part.

Nothing stored is ever run: safetensors, or torch files with `weights_only`. Whatever is wrong is said in one line that
names the file.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def absent(path: str | Path) -> ValueError:
    before = ": it is the checkpoint of a run that must come first" if str(path).endswith(".ckpt") else ""
    return ValueError(f"weights {path} does not exist{before}")


def locate(weights: str | Path, *wanted: str) -> Path:
    """`weights` as a local file or folder; a hub name (OWNER/NAME) becomes the folder of its cached download.

    `wanted`: patterns of the files a download needs. Raises ValueError where there is no such thing.
    """
    path = Path(weights)
    if path.exists():
        return path
    if not HUB_NAME.fullmatch(str(weights)) or path.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt"):
        raise absent(weights)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(weights), allow_patterns=list(wanted)))
    except Exception as error:  # offline, no such repository, a private one, …
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"weights {weights} is no file or folder here, and as a hub name it is out of reach ({reason})"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A config beside weights. Raises ValueError naming the file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path.parent} holds no {path.name}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected an object of settings")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, of a .safetensors file or torch's; of a checkpoint its EMA where it has one."""
    if not path.is_file():
        raise absent(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = {**content["state_dict"], **content.get("ema", {})} if "state_dict" in content else content
        return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    except pickle.UnpicklingError as error:  # torch's message advises to trust the file
        raise ValueError(f"weights {path}: refused, not plain tensors; save them as .safetensors") from error
    except Exception as error:  # torch and safetensors raise nearly anything on a damaged file or one of another kind
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"weights {path}: damaged or incomplete, fetch it again ({reason})") from error


def read_part(path: str | Path, kind: str, prefixes: Sequence[str], known: str) -> dict[str, Tensor]:
    """Tensors of one part of the file `path`: those under the first of `prefixes` that has a tensor called `known`.

    Raises ValueError, naming the file and the `kind` of part, where there is none.
    """
    tensors = read_tensors(Path(path))
    prefix = next((p for p in prefixes if p + known in tensors), None)
    if prefix is None:
        raise ValueError(f"{path} holds no weights of a {kind}")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fit(part: nn.Module, tensors: dict[str, Tensor], source: str | Path) -> None:
    """Load `tensors` into `part`, all of them and nothing else; ValueError names the first that does not fit."""
    own = part.state_dict()
    odd = []
    for name in sorted(own.keys() | tensors.keys()):
        here, there = (tuple(d[name].shape) if name in d else "missing" for d in (own, tensors))
        if here != there:
            odd.append(f"{name} is {there} there, {here} here")
    if odd:
        more = f", and {len(odd) - 1} more differ" if len(odd) > 1 else ""
        raise ValueError(f"{source} does not fit this {type(part).__name__}: {odd[0]}{more}")
    part.load_state_dict(tensors)
