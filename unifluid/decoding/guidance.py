"""Classifier-free guidance: which prompts are decoded side by side, and the weight of each at every AR step.

The guided prediction is e_∅∅ + s_I (e_I∅ − e_∅∅) + s_T (e_IT − e_I∅), for source image I and text T (InstructPix2Pix,
arXiv 2211.09800, eq. 3): a weighted sum of three branches whose weights sum to one. With s_I = s_T, or without a source
image, it is the usual e_∅ + s (e_T − e_∅); with s_I = s_T = 1 the condition alone is left.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Schedule = Literal["constant", "linear", "cosine", "none"]

# Share of an image's tokens generated once this AR step is done -> how far the scale has gone from 1 to `guidance`.
SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "constant": torch.ones_like,
    "linear": torch.clone,  # MAR
    "cosine": lambda share: (1 - torch.cos(math.pi * share)) / 2,  # MDTv2's power-cosine, power 1
    "none": torch.zeros_like,
}


class Branch(NamedTuple):
    """What of its prompt a branch sees."""

    text: bool
    source: bool


BRANCHES = (Branch(text=True, source=True), Branch(text=False, source=True), Branch(text=False, source=False))


def scales(guidance: float, schedule: Schedule, share: Tensor) -> Tensor:
    """Guidance scale at every AR step: 1 + (guidance − 1) · schedule(share), same shape as `share`."""
    return 1 + (guidance - 1) * SCHEDULES[schedule](share)


def branch_weights(
    guidance: float, source_guidance: float | None, schedule: Schedule, share: Tensor
) -> tuple[list[Branch], Tensor]:
    """The G branches that count at some step, the condition first, and their weights (steps, G), each row summing to 1.

    `source_guidance` None means as `guidance`: text and source are then guided together, against the null prompt.
    """
    text = scales(guidance, schedule, share)
    source = text if source_guidance is None else scales(source_guidance, schedule, share)
    weights = torch.stack([text, source - text, 1 - source], dim=-1)
    used = [g for g in range(len(BRANCHES)) if g == 0 or weights[:, g].any()]
    return [BRANCHES[g] for g in used], weights[:, used]
