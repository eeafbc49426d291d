"""Pictures whose content is known: a detector and a colour classifier are tried on them before a score is believed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from unifluid.interfaces import Detection

SIDE = 512  # pixels
SKY, GRASS, WALL, POLE = (120, 170, 220), (90, 120, 70), (200, 190, 170), (140, 140, 140)
RED = (214, 22, 32)
PAINT = {  # colours as CSS has them, but for brown, which is dark there
    **{name: name for name in ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")},
    "pink": "hotpink",
    "brown": "saddlebrown",
}


def rendered() -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Pictures (3, H, W) uint8 with GenEval's metadata: a stop sign and a clock, which detectors of COCO know."""
    sign, clock = _picture(_stop_sign), _picture(_clock)
    pair = torch.cat([sign, clock], 2)
    one = {"class": "stop sign", "count": 1}, {"class": "clock", "count": 1}
    yield sign, {"tag": "single_object", "include": [one[0]], "prompt": "a photo of a stop sign"}
    yield clock, {"tag": "single_object", "include": [one[1]], "prompt": "a photo of a clock"}
    yield pair, {"tag": "two_object", "include": list(one), "prompt": "a photo of a stop sign and a clock"}
    left = [one[1], one[0] | {"position": ["left of", 0]}]
    yield pair, {"tag": "position", "include": left, "prompt": "a photo of a stop sign left of a clock"}
    two, three = ({"class": "clock", "count": n} for n in (2, 3))
    yield torch.cat([clock, clock], 2), {
        "tag": "counting", "include": [two], "exclude": [three], "prompt": "a photo of two clocks",
    }  # fmt: skip
    red = [one[0] | {"color": "red"}]
    yield sign, {"tag": "colors", "include": red, "prompt": "a photo of a red stop sign"}


def painted() -> Iterator[tuple[Tensor, Detection, str]]:
    """A ball of each colour as image (3, H, W), where it is, and its colour, for a classifier alone."""
    for name, paint in PAINT.items():
        image, mask = Image.new("RGB", (224, 224), SKY), Image.new("1", (224, 224))
        box = (32, 32, 192, 192)
        ImageDraw.Draw(image).ellipse(box, fill=ImageColor.getrgb(paint))
        ImageDraw.Draw(mask).ellipse(box, fill=1)
        yield _tensor(image), Detection("sports ball", 1.0, np.array(mask), tuple(map(float, box))), name


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _picture(paint: Any) -> Tensor:
    image = Image.new("RGB", (SIDE, SIDE), WALL)
    paint(ImageDraw.Draw(image))
    return _tensor(image)


def _stop_sign(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((0, 0, SIDE, 380), fill=SKY)
    draw.rectangle((0, 380, SIDE, SIDE), fill=GRASS)
    draw.rectangle((248, 300, 264, 500), fill=POLE)
    for radius, colour in ((130, "white"), (122, RED)):
        angles = [math.pi / 8 + k * math.pi / 4 for k in range(8)]
        draw.polygon([(256 + radius * math.cos(a), 220 + radius * math.sin(a)) for a in angles], fill=colour)
    font = ImageFont.load_default(84)
    draw.text((256 - draw.textlength("STOP", font=font) / 2, 170), "STOP", fill="white", font=font)


def _clock(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((96, 96, 416, 416), fill="black")
    draw.ellipse((112, 112, 400, 400), fill="white")
    font = ImageFont.load_default(36)
    for hour in range(1, 13):
        angle = hour * math.pi / 6 - math.pi / 2
        x, y = 256 + 118 * math.cos(angle), 256 + 118 * math.sin(angle)
        draw.text((x - 10, y - 20), str(hour), fill="black", font=font)
    draw.line((256, 256, 256, 160), fill="black", width=8)
    draw.line((256, 256, 330, 290), fill="black", width=10)
