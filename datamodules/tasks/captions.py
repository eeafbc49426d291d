"""Captions: COCO by Karpathy's splits, TextCaps, Screen2Words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from datamodules.tasks.base import LeftOut, Row, Task, caption_rows

TRAIN_VAL = {"train": ("train",), "val": ("val",)}


class CocoCaptions(Task):
    """dataset_coco.json (Karpathy and Fei-Fei, 2015); trained on train+restval, reported on val as PaliGemma does."""

    name, kind = "coco", "caption"
    splits = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}

    def entries(self, part: str) -> Sequence[Any]:
        return [image for image in self.listed("dataset_coco.json", "images") if image["split"] == part]

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        image = f"{entry['filepath']}/{entry['filename']}"
        yield from caption_rows(entry["cocoid"], image, [s["raw"] for s in entry["sentences"]], training)


class TextCaps(Task):
    """TextCaps 0.1: one entry a caption, grouped by image here; training captions in lower case."""

    name, kind = "textcaps", "caption"
    splits = TRAIN_VAL

    def entries(self, part: str) -> Sequence[Any]:
        groups: dict[str, list[Any]] = defaultdict(list)
        for entry in self.listed(f"TextCaps_0.1_{part}.json", "data"):
            groups[entry["image_id"]].append(entry)
        return list(groups.values())

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        captions = [e["caption_str"].lower() if training else e["caption_str"] for e in entry]
        yield from caption_rows(entry[0]["image_id"], f"train_images/{entry[0]['image_name']}.jpg", captions, training)


class Screen2Words(Task):
    """Screen2Words: five summaries a screen of RICO; trained on train+dev, reported on test."""

    name, kind = "screen2words", "caption"
    splits = {"train": ("train", "dev"), "val": ("dev",), "test": ("test",)}

    def entries(self, part: str) -> Sequence[Any]:
        summaries: dict[str, list[str]] = defaultdict(list)
        for line in self.table("screen_summaries.csv"):
            summaries[line["screenId"]].append(line["summary"])
        return [(screen, summaries.get(screen, [])) for screen in self.lines(f"split/{part}_screens.txt")]

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        screen, summaries = entry
        if not summaries:
            raise LeftOut("no summary")
        yield from caption_rows(int(screen), f"combined/{screen}.jpg", summaries, training)
