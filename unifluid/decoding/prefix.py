"""What image and text decoding share: inference mode, and prompts encoded once into the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unifluid.interfaces import Cache
from unifluid.layout import extend
from unifluid.model import UniFluidModel
from unifluid.packing import pack_prompts
from unifluid.sequence import Example, Formatter, Segment

Progress = Callable[[float, int], None]  # (examples done, of how many); parts of an example count


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without autograd or compiled code; afterwards every module is in the mode it was in.

    Caches grow with every token, and torch.compile would compile for many of their lengths.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module in training:
            module.training = True


def numbers_of(examples: list[Example], indices: Sequence[int] | None) -> list[int]:
    """The numbers that draws for `examples` go by, default 0, 1, … Raises ValueError unless there is one for each."""
    if indices is not None and len(indices) != len(examples):
        raise ValueError(f"indices: give one for each example, got {len(indices)} for {len(examples)}")
    return [int(index) for index in (range(len(examples)) if indices is None else indices)]


def prefill(
    model: UniFluidModel,
    formatter: Formatter,
    prompts: list[Segment],
    room: int,
    ahead: Tensor | None = None,
    multiple: int = 1,
    cache: Cache | None = None,
) -> tuple[Tensor, Cache]:
    """Encode one prompt a row, right-aligned -> hidden state (B, D) of each separator, cache with `room` to go.

    `ahead` (room,): see `Layout`, where what is to come comes in rounds. `multiple`: rows are as long as one of it.
    `cache`, one of before: it is filled anew where it has the right shape.
    """
    batch = pack_prompts(prompts, formatter, multiple).to(model.boi.device)
    x = model.embed(batch)
    layout = extend(batch.layout, room, ahead)
    kind = x.device.type
    autocast = torch.is_autocast_enabled(kind)
    if cache is not None and cache.layout.segments.shape == layout.segments.shape:
        cache.restart(layout)
    else:
        cache = model.backbone.new_cache(layout, torch.get_autocast_dtype(kind) if autocast else x.dtype)
    return model.backbone(x, cache.layout, cache)[:, -1], cache
