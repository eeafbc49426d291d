"""Rows a second of each reader, pictures decoded, in one process and in random order.

WebDataset shards are also read in their own order, beside the webdataset library where that is installed.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import Bench, main
from datamodules import CocoCaptions, Folder, Table, WebDataset
from datamodules.base import ExampleDataset
from datamodules.shapes import Shapes

SIZE = 256  # pixels
CAPTION = "a picture of something, with {} things in it"


def run(bench: Bench) -> None:
    n = 8 if bench.tiny else 400
    with TemporaryDirectory() as folder:
        pictures = [picture(i) for i in range(min(n, 50))]
        jpegs = [pictures[i % len(pictures)] for i in range(n)]
        readers = {
            **{f"shapes, {task}": lambda task=task: Shapes(task) for task in ("generate", "caption", "answer", "edit")},
            "folder": lambda: write_folder(Path(folder, "folder"), jpegs),
            "WebDataset": lambda: write_shard(Path(folder, "rows.tar"), jpegs),
            "COCO": lambda: write_coco(Path(folder, "coco"), jpegs),
            "table": lambda: write_table(Path(folder, "table"), jpegs),
        }
        for name, make in readers.items():
            if bench.wants(name):
                rows(bench, name, make(), n)
        if bench.wants("WebDataset in order"):
            in_order(bench, write_shard(Path(folder, "order.tar"), jpegs), n)


def rows(bench: Bench, name: str, dataset: ExampleDataset, n: int) -> None:
    order = random.Random(0).sample(range(n), n)
    row = bench.compare(name, lambda: [dataset[i] for i in order] and None, rows=n)
    bench.more(row, rows_per_s=round(1000 * n / row["ours_ms"], 1))


def in_order(bench: Bench, dataset: WebDataset, n: int) -> None:
    """All samples of a shard, one after another, decoded to tensors on both sides."""
    try:
        import webdataset
    except ImportError:
        bench.note("The webdataset library is not installed, so nothing is beside our reader of its shards.")
        return
    shard = str(dataset.paths[0])

    def library() -> None:
        stream = webdataset.WebDataset(shard, shardshuffle=False).decode("torchrgb8").to_tuple("image.jpg", "json")
        assert sum(1 for _ in stream) == n

    row = bench.compare("WebDataset in order", lambda: [dataset[i] for i in range(n)] and None, library, rows=n)
    bench.more(row, rows_per_s=round(1000 * n / row["ours_ms"], 1))


def picture(seed: int) -> bytes:
    """A JPEG with as much detail as a photograph has: smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((SIZE, SIZE), Image.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_pictures(folder: Path, jpegs: list[bytes]) -> None:
    folder.mkdir(parents=True)
    for i, data in enumerate(jpegs):
        (folder / f"{i}.jpg").write_bytes(data)


def write_folder(folder: Path, jpegs: list[bytes]) -> Folder:
    write_pictures(folder, jpegs)
    lines = [
        {"id": str(i), "task": "caption", "image": f"{i}.jpg", "caption": CAPTION.format(i)} for i in range(len(jpegs))
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Folder(folder, "caption")


def write_shard(path: Path, jpegs: list[bytes]) -> WebDataset:
    with tarfile.open(path, "w") as tar:
        for i, data in enumerate(jpegs):
            for name, content in (("image.jpg", data), ("json", json.dumps({"caption": CAPTION.format(i)}).encode())):
                info = tarfile.TarInfo(f"{i:06d}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return WebDataset(str(path), "caption")


def write_coco(folder: Path, jpegs: list[bytes]) -> CocoCaptions:
    write_pictures(folder / "images", jpegs)
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(len(jpegs))]
    captions = [{"id": i, "image_id": i, "caption": CAPTION.format(i)} for i in range(len(jpegs))]
    file = folder / "captions.json"
    file.write_text(json.dumps({"images": images, "annotations": captions}))
    return CocoCaptions(str(file), str(folder / "images"))


def write_table(folder: Path, jpegs: list[bytes]) -> Table:
    import datasets

    columns: dict[str, Any] = {"image": [{"bytes": data, "path": None} for data in jpegs]}
    columns["caption"] = [CAPTION.format(i) for i in range(len(jpegs))]
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder)
    return Table(str(folder), "caption", {"image": "image", "caption": "caption"})


if __name__ == "__main__":
    main("data", __doc__, run)
