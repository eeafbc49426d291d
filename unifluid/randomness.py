"""Every random draw as a function of what it is for, never of when it is made.

Global row r of step s is a function of (seed, s, r); a generated image is a function of (seed, its index). So results
do not depend on rank, workers, batch size or accumulation, and a resumed run needs no generator state to go on alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def derive(seed: int, *key: int | str) -> int:
    """A 63-bit seed for one purpose, e.g. `derive(seed, "order", row)`: independent for every different key."""
    text = "/".join(map(str, (seed, *key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *key: int | str) -> torch.Generator:
    """A fresh CPU generator for `derive(seed, *key)`. CPU always: devices draw different numbers from one seed."""
    return torch.Generator().manual_seed(derive(seed, *key))


def permuted_index(seed: int, index: int, size: int) -> int:
    """Item `index` of an endless stream of shuffled passes over `size` items: each pass visits every item once.

    An eight-round Feistel network on the index, so a pass over billions of items needs no table. Fewer rounds are
    measurably uneven on small sizes.
    """
    if size < 1:
        raise ValueError(f"a stream needs at least one item, got {size}")
    epoch, position = divmod(index, size)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask, key = (1 << half) - 1, derive(seed, "shuffle", epoch)
    while True:  # cycle walking: values outside [0, size) are mapped again
        left, right = position >> half, position & mask
        for r in range(8):
            left, right = right, left ^ (_mix(key ^ (r << half | right)) & mask)
        position = left << half | right
        if position < size:
            return position


def _mix(x: int) -> int:
    """64 bits in which every bit of x counts: multiply, fold, twice."""
    x = x * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93 & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 32


def uniform(seed: int, rows: list[int], purpose: str, *shape: int) -> Tensor:
    """Uniform draws in [0, 1), (len(rows), *shape), row by row a function of (seed, purpose, row)."""
    return _by_row(torch.rand, seed, rows, purpose, shape)


def normal(seed: int, rows: list[int], purpose: str, *shape: int) -> Tensor:
    """Standard normal draws, (len(rows), *shape), row by row a function of (seed, purpose, row)."""
    return _by_row(torch.randn, seed, rows, purpose, shape)


def _by_row(draw: Callable[..., Tensor], seed: int, rows: list[int], purpose: str, shape: tuple[int, ...]) -> Tensor:
    drawn = torch.empty(len(rows), *shape)
    for place, row in zip(drawn, rows, strict=True):
        draw(shape, generator=generator(seed, purpose, row), out=place)
    return drawn
