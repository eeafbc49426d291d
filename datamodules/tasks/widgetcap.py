"""WidgetCap: what a widget of an app's screen is for; a red box says which."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from PIL import Image, ImageDraw

from datamodules.tasks.base import LeftOut, Made, Row, Task, caption_rows

HEIGHT = 2560  # pixels of the screen in which bounds are given


class WidgetCap(Task):
    """widget_captions.csv over RICO's screens; trained on train+dev, reported on test.

    The box is drawn after the resize, one pixel wide, so pictures are made here at the size the model sees.
    """

    name, kind = "widgetcap", "caption"
    splits = {"train": ("train", "dev"), "val": ("dev",), "test": ("test",)}

    def entries(self, part: str) -> Sequence[Any]:
        screens = set(self.lines(f"split/{part}.txt"))
        return [line for line in self.table("widget_captions.csv") if line["screenId"] in screens]

    def rows(self, entry: Any, part: str, training: bool) -> Iterator[Row]:
        screen, node = entry["screenId"], entry["nodeId"]
        if entry.get("datasetId") == "nr":
            raise LeftOut("no picture of RICO")
        captions = [caption.strip() for caption in entry["captions"].split("|") if caption.strip()]
        if not captions:
            raise LeftOut("no caption")
        number = f"{screen}_{node}"
        made = Made(f"{self.size}/{number}", partial(self._draw, screen, node))
        yield from caption_rows(number, made, captions, training)

    def _draw(self, screen: str, node: str) -> Image.Image:
        widget = json.loads(self.file(f"combined/{screen}.json").read_bytes())["activity"]["root"]
        for index in node.split(".")[1:]:
            widget = widget["children"][int(index)]
        with Image.open(self.file(f"combined/{screen}.jpg")) as picture:
            width, height = picture.size
            square = picture.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        scale = height / HEIGHT  # bounds are of a screen so high; then both sides are squeezed to the square
        x0, y0, x1, y1 = (value * scale for value in widget["bounds"])
        shares = (x0 / width, y0 / height, x1 / width, y1 / height)
        left, top, right, bottom = (min(max(round(share * self.size), 0), self.size - 1) for share in shares)
        box = (min(left, right), min(top, bottom), max(left, right), max(top, bottom))
        ImageDraw.Draw(square).rectangle(box, outline=(255, 0, 0))
        return square
