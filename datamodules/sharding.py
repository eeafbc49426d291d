"""Any data set of the kit as WebDataset shards, which `WebDataset` reads without being told where its fields are.

A sample is a member NNNNNNNN.json with the fields of `Example`, image.png (0.image.png, 1.image.png, … of several that
are looked at together) and target.png. Rows that are bad are left out.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.base import ExampleDataset
from datamodules.formats.rows import PICTURES
from datamodules.formats.tar import write_whole
from datamodules.images import to_image
from unifluid.configs import describe
from unifluid.sequence import Example

ABOUT = "shards.json"
TEXTS = ("prompt", "question", "answers", "caption", "instruction", "meta")


def write_shards(
    dataset: ExampleDataset,
    out: str | Path,
    per_shard: int = 1000,
    quality: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Write `dataset` to OUT/00000.tar, … of `per_shard` rows each -> the number of shards.

    Pictures are PNG, or JPEG of `quality` (1 to 95). A shard is whole or not there; a second call goes on where the
    first was stopped. Raises ValueError where `out` holds shards of another data set or other settings.
    """
    if per_shard < 1 or not (quality is None or 1 <= quality <= 95):
        raise ValueError(f"shards need at least one row, and JPEG a quality of 1 to 95; got {per_shard} and {quality}")
    out = Path(out)
    about = {"data": describe(dataset), "examples": len(dataset), "per_shard": per_shard, "quality": quality}
    about = json.loads(json.dumps(about))
    place = out / ABOUT
    if place.exists() and json.loads(place.read_text(encoding="utf-8")) != about:
        raise ValueError(f"{out} holds shards of another data set or other settings: give an empty folder")
    write_whole(place, json.dumps(about, indent=2).encode())
    starts = range(0, len(dataset), per_shard)
    for number, start in enumerate(starts):
        path = out / f"{number:05d}.tar"
        progress(start, len(dataset))
        if not path.exists():
            _write_shard(path, dataset, range(start, min(start + per_shard, len(dataset))), quality, progress)
    progress(len(dataset), len(dataset))
    return len(starts)


def _write_shard(path: Path, dataset: ExampleDataset, rows: range, quality: int | None, progress: Callable) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for row in rows:
                example = dataset.at(row)
                if example is not None:
                    for extension, data in _members(example, quality):
                        info = tarfile.TarInfo(
                            f"{row:08d}.{extension}"
                        )  # no times, no owners: the same bytes each time
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
                progress(row + 1, len(dataset))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _members(example: Example, quality: int | None) -> Iterator[tuple[str, bytes]]:
    """Extension and bytes of each member of a sample."""
    if example.moments is not None:
        raise ValueError("shards hold pictures: name the data set within CachedMoments")
    row: dict[str, Any] = {"id": example.id, "task": example.task}
    row |= {name: value for name in TEXTS if (value := getattr(example, name))}
    try:
        yield "json", json.dumps(row, ensure_ascii=False).encode()
    except TypeError as error:
        raise ValueError(f"example {example.id}: its meta cannot be stored as JSON ({error})") from error
    for name in PICTURES:
        value = getattr(example, name)
        several = value if isinstance(value, tuple) else ()
        pictures = {f"{i}.{name}": picture for i, picture in enumerate(several)} or {name: value}
        for key, picture in pictures.items():
            if picture is not None:
                yield f"{key}.{'png' if quality is None else 'jpg'}", _encode(picture, quality)


def _encode(picture: Tensor, quality: int | None) -> bytes:
    buffer = io.BytesIO()
    image = to_image(picture)
    image.save(buffer, "PNG") if quality is None else image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
