"""Shared by the tests of data: pictures as bytes and tar shards with whatever members a test wants."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

from PIL import Image

from datamodules import Folder, Stream, WebDataset

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def picture(colour: str = "red", size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def colour(image) -> str:
    return {value: name for name, value in COLOURS.items()}[tuple(image[:, 0, 0].tolist())]


def half_a_gigapixel() -> bytes:
    """The header of a PNG of 500 Mpx, and no pixels: decoding would fail otherwise."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 25_000, 20_000, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return header + struct.pack(">I", 0) + b"IDAT"


def add(tar: tarfile.TarFile, name: str, content: bytes | str | dict, kind: bytes = tarfile.REGTYPE) -> None:
    """One member; for a link `content` is where it points."""
    info = tarfile.TarInfo(name)
    info.type = kind
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname, content = content, b""
    data = json.dumps(content).encode() if isinstance(content, dict) else content
    data = data.encode() if isinstance(data, str) else data
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def shard(path: Path, *members: tuple) -> Path:
    """A tar file of (name, content) or (name, content, kind)."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            add(tar, *member)
    return path


def captions(*numbers: int, colour: str = "red") -> list[tuple[str, bytes | str]]:
    """Members of good samples with a picture and a text."""
    return [m for i in numbers for m in ((f"{i:05d}.png", picture(colour)), (f"{i:05d}.txt", f"caption {i}"))]


def bad_streams(path: Path) -> dict[str, Stream]:
    """Ten samples in a shard and ten lines of JSON, with bad ones among them."""
    members = captions(*range(10))
    members[4] = (members[4][0], b"<html>")
    members[7] = (members[7][0], " ")
    members.insert(16, ("00007.pkl", b"x"))
    members[17:19] = [(members[17][0], half_a_gigapixel()), members[18]]
    shard(path / "0.tar", *members)
    (path / "a.png").write_bytes(picture())
    rows = [{"id": i, "task": "generate", "target": "a.png", "prompt": f"{i}"} for i in range(10)]
    rows[3]["target"] = "missing.png"
    (path / "train.jsonl").write_text("\n".join(["{", *map(json.dumps, rows)]))
    shards = WebDataset(f"{path}/0.tar", "caption", fields={"image": "png", "caption": "txt"}, max_skipped=0.5)
    return {
        "shards": Stream(shards, 4),
        "folder": Stream(Folder(path, "generate", max_skipped=0.5), 4),
    }
