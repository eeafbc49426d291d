"""Cards that show one of eight things, in any colour: the smallest data that features can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from datamodules.base import ExampleDataset
from unifluid.sequence import Example

THINGS = [f"{i:03b}" for i in range(8)]


def card(thing: str, colour: int, size: int = 8) -> Tensor:
    """uint8 (3, size, size): the fourth corner and those that `thing` names, in a colour of its own, on white."""
    filled = torch.tensor([int(c) for c in thing] + [1]).view(1, 2, 2).repeat_interleave(size // 2, 1)
    ink = torch.randint(60, 200, (3, 1, 1), generator=torch.Generator().manual_seed(colour))
    return (255 - filled.repeat_interleave(size // 2, 2) * ink).to(torch.uint8)


class Cards(ExampleDataset):
    """`copies` cards of each thing, in other colours; an edit's source has the next colour of its target."""

    def __init__(self, task: Literal["generate", "edit"] = "generate", colour: int = 0, copies: int = 2):
        self.task, self.colour, self.copies = task, colour, copies

    def __len__(self) -> int:
        return len(THINGS) * self.copies

    def __getitem__(self, index: int) -> Example:
        copy, i = divmod(index, len(THINGS))
        thing, colour = THINGS[i], self.colour + 10 * copy
        image = card(thing, colour + 1) if self.task == "edit" else None
        text = {"prompt": thing, "instruction": "in another colour"}
        return Example(str(index), self.task, image, card(thing, colour), meta={"concept": thing}, **text)

    def texts(self) -> Iterator[str]:
        yield from THINGS
