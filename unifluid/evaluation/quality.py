"""How good a picture is, by a formula: stands for an aesthetic network where there is none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unifluid.interfaces import ImageQuality


class Colourfulness(ImageQuality):
    """√(σ²_rg + σ²_yb) + .3 √(μ²_rg + μ²_yb) of rg = R − G and yb = (R + G) / 2 − B, in 0 … 255.

    Hasler and Süsstrunk, Measuring colourfulness in natural images (2003): 0 for grey pictures; people call 15
    slightly, 33 moderately and 59 quite colourful.
    """

    name = "colourfulness"

    def scores(self, images: Sequence[Tensor], device: torch.device) -> list[float]:
        found = []
        for image in images:
            red, green, blue = image.to(device, torch.float64).flatten(1)
            opponents = torch.stack([red - green, (red + green) / 2 - blue])
            spread, offset = opponents.std(1, correction=0).norm(), opponents.mean(1).norm()
            found.append(float(spread + 0.3 * offset))
        return found
