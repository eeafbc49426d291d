"""Moments of an image tokenizer, stored once and read in every epoch: most of a step's pixels need not be touched.

A cache is a folder: about.json, and parts of `PART` examples each, NNNNN.npy with their moments and NNNNN.json with
their ids. What is stored is what is there before any sampling, so that training draws latents as it does from pictures.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.base import ExampleDataset, Wrapper
from datamodules.formats.rows import PICTURES
from datamodules.formats.tar import write_whole
from unifluid.configs import describe
from unifluid.interfaces import ImageTokenizer
from unifluid.randomness import derive
from unifluid.sequence import Example, to_unit

ABOUT = "about.json"
PART = 1024
RESIZE = "square bilinear"  # what `to_unit` does; other shapes are wrappers, and so part of the data set's description
Precision = Literal["float32", "float16"]


class CachedMoments(Wrapper):
    """The examples of `dataset` – generate or edit – with stored moments in place of the picture to draw.

    `unifluid data cache` makes the cache from the same data set, crops and flips included. Raises ValueError where the
    cache is of another data set or not complete, and, before training begins, where it was made by an image tokenizer
    with other weights or settings.
    """

    def __init__(self, dataset: ExampleDataset, cache: str):
        super().__init__(dataset)
        self.cache = Path(cache)
        self.about = read_about(self.cache)
        if (found := describe_data(dataset)) != self.about["data"]:
            raise ValueError(f"{cache} was made of other data ({self.about['data']}) than this ({found}); make it anew")
        parts = range(-(-len(dataset) // PART))
        if missing := [p for p in parts if not _moments(self.cache, p).is_file()]:
            raise ValueError(f"{cache}: {len(missing)} of {len(parts)} parts are missing; unifluid data cache goes on")
        ids = [_key(i) for p in parts for i in json.loads(_ids(self.cache, p).read_text(encoding="utf-8"))]
        self._keys = np.array(ids, dtype=np.int64)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        rest = tuple(name for name in PICTURES if name != "target")
        example = self.dataset.at(index, rest)
        if example is None or _key(example.id) != self._keys[index]:
            example = self.dataset[index]  # a bad picture, which the data set replaces
            if _key(example.id) != self._keys[index]:
                raise ValueError(f"{self.cache}: entry {index} is not of {example.id!r}; make the cache anew")
        return dataclasses.replace(example, target=None, moments=self._read(index))

    def at(self, index: int, pictures: tuple[str, ...] = PICTURES) -> Example | None:
        return self[index]

    def check_tokenizer(self, tokenizer: ImageTokenizer | None) -> None:
        if tokenizer is None:
            raise ValueError(f"{self.cache} holds moments, but this model trains on pictures; train without it")
        if fingerprint(tokenizer) != self.about["tokenizer"]:
            raise ValueError(
                f"{self.cache} was made by an image tokenizer with other weights or settings than this model's; make it"
                " anew, or train without it"
            )
        super().check_tokenizer(tokenizer)

    def _read(self, index: int) -> Tensor:
        part, row = divmod(index, PART)
        # Mapped anew each time: thousands of parts would be as many open files.
        stored = np.load(_moments(self.cache, part), mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(stored[row].astype(np.float32))


def write_moments(
    dataset: ExampleDataset,
    tokenizer: ImageTokenizer,
    cache: str | Path,
    precision: Precision = "float32",
    batch_size: int = 32,
    workers: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Store the moments of all pictures that `dataset` is to draw. Goes on where it was stopped; parts are whole.

    `workers`: processes that read pictures ahead of the image tokenizer.
    """
    cache, device = Path(cache), next((p.device for p in tokenizer.parameters()), torch.device("cpu"))
    about = {
        "tokenizer": fingerprint(tokenizer),
        "data": describe_data(dataset),
        "size": tokenizer.image_size,
        "resize": RESIZE,
        "precision": precision,
    }
    if (cache / ABOUT).exists() and read_about(cache) != about:
        raise ValueError(f"{cache} holds a cache of other data or another image tokenizer: give an empty folder")
    write_whole(cache / ABOUT, json.dumps(about, indent=2).encode())
    starts = [s for s in range(0, len(dataset), PART) if not _moments(cache, s // PART).exists()]
    parts = [range(start, min(start + PART, len(dataset))) for start in starts]
    batches = [list(part[i : i + batch_size]) for part in parts for i in range(0, len(part), batch_size)]
    collate = functools.partial(_ids_and_pictures, size=tokenizer.image_size)
    loader = iter(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers))
    for part in parts:
        ids, made = [], []
        while len(ids) < len(part):
            more, images = next(loader)
            with torch.no_grad():
                made.append(tokenizer.encode(images.to(device)).cpu().numpy().astype(precision))
            ids += more
            progress(part.start + len(ids), len(dataset))
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(made), allow_pickle=False)
        write_whole(_ids(cache, part.start // PART), json.dumps(ids).encode())
        write_whole(_moments(cache, part.start // PART), buffer.getvalue())  # comes last: then the part is complete


def _ids_and_pictures(examples: list[Example], size: int) -> tuple[list[str], Tensor]:
    return [e.id for e in examples], torch.stack([to_unit(e.target, size) for e in examples])


def fingerprint(tokenizer: ImageTokenizer) -> str:
    """A hash of the tokenizer's settings (its scale is one, or a buffer) and of all its weights, wherever they lay."""
    config = describe(tokenizer)
    config["init_args"].pop("weights", None)  # where the weights lie; what they are is hashed below
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=16)
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    return digest.hexdigest()


def describe_data(dataset: ExampleDataset) -> dict[str, Any]:
    """What was done to the pictures of a data set, and how many there are; which they are, their ids say."""
    config, wrappers = describe(dataset), []
    while "dataset" in config["init_args"]:
        wrappers.append([config["class_path"], {k: v for k, v in config["init_args"].items() if k != "dataset"}])
        config = config["init_args"]["dataset"]
    return {"task": dataset.task, "examples": len(dataset), "transforms": wrappers}


def read_about(cache: Path) -> dict[str, Any]:
    try:
        about = json.loads((cache / ABOUT).read_text(encoding="utf-8"))
        return {name: about[name] for name in ("tokenizer", "data", "size", "resize", "precision")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{cache} holds no cache of moments: unifluid data cache makes one ({error})") from error


def _moments(cache: Path, part: int) -> Path:
    return cache / f"{part:05d}.npy"


def _ids(cache: Path, part: int) -> Path:
    return cache / f"{part:05d}.json"


def _key(name: str) -> int:
    """64 bits of an id."""
    return derive(0, "id", name)
