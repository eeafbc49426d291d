"""What generate, caption, answer and edit are asked to do: items from flags or a file. Free of torch."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from unifluid.lines import read_lines

TEXT = {"generate": "prompt", "answer": "question", "edit": "instruction"}  # a caption needs a picture only


@dataclass(frozen=True)
class Item:
    """One thing to draw or write. `images`: files that are looked at together."""

    id: str
    text: str | None = None
    images: tuple[str, ...] = ()


def collect(command: str, args: argparse.Namespace) -> list[Item]:
    """The items that the flags of `command` name. Raises ValueError naming the flag, or the file and line."""
    images = getattr(args, "image", [])
    texts = list(getattr(args, TEXT.get(command, ""), []))
    if args.prompts is not None and Path(args.prompts).suffix == ".jsonl":
        if images or texts:
            raise ValueError(f"{args.prompts} says everything: leave the flags for pictures and texts out")
        return _read_jsonl(command, Path(args.prompts))
    if args.prompts is not None:
        texts += [line.strip() for line in read_lines(args.prompts) if line.strip()]
        if not texts:
            raise ValueError(f"--prompts: {args.prompts} holds no text")
    return _check(command, _pair(command, images, texts))


def _pair(command: str, images: list[str], texts: list[str]) -> list[Item]:
    if command == "generate":
        return [Item(str(i), text) for i, text in enumerate(texts)]
    if command == "caption":
        return [Item(str(i), None, (image,)) for i, image in enumerate(images)]
    n = max(len(images), len(texts))
    if images and texts and not {len(images), len(texts)} <= {1, n}:
        raise ValueError(
            f"--image names {len(images)} pictures and --{TEXT[command]} {len(texts)} texts: give one of either, "
            "or as many of both"
        )
    images, texts = (x * n if len(x) == 1 else x for x in (images, texts))
    return [Item(str(i), t, (image,)) for i, (t, image) in enumerate(zip(texts, images, strict=False))]


def _check(command: str, items: list[Item]) -> list[Item]:
    flags = {"generate": "--prompt or --prompts", "caption": "--image"}
    if not items:
        raise ValueError(f"nothing to {command}: give {flags.get(command, f'--image and --{TEXT.get(command)}')}")
    for item in items:
        if command in TEXT and not (item.text or "").strip():
            raise ValueError(f"--{TEXT[command]}: the {TEXT[command]} of item {item.id} is empty")
        for image in item.images:
            if Path(image).is_dir():
                raise ValueError(f"--image: {image} is a folder: name the pictures in it, {image}/*.png")
            if not Path(image).is_file():
                raise ValueError(f"--image: {image} does not exist")
    return items


def _read_jsonl(command: str, path: Path) -> list[Item]:
    """Lines with the fields of `Example`: id (or the line's number), prompt, question, instruction, image."""
    items = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
            images = fields.get("image", [])
            images = [images] if isinstance(images, str) else images
            files = tuple(str(path.parent / image) for image in images)  # relative to the file, as in data sets
            text = fields[TEXT[command]] if command in TEXT else None
            if not isinstance(text, str | None):
                raise TypeError(f"{TEXT[command]} is no text")
        except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
            needed = f"an object with {TEXT[command]}" if command in TEXT else "an object with image"
            raise ValueError(f"--prompts: {path}:{number} is not {needed} ({error})") from error
        if command != "generate" and not files:
            raise ValueError(f"--prompts: {path}:{number} names no image")
        items.append(Item(str(fields.get("id", number)), text, files if command != "generate" else ()))
    return _check(command, items)
