"""Every random draw as a function of what it is for, never of when it is made.

Global row r of step s is a function of (seed, s, r); a generated image is a function of (seed, its index). So results
do not depend on rank, workers, batch size or accumulation, and a resumed run needs no generator state to go on alike.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

# SplitMix64's constants, as int64: the odd number next to 2^64 / φ, and two multipliers that mix.
GOLDEN, MIX = 0x9E3779B97F4A7C15 - 2**64, (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)


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


def uniform(seed: int, rows: list[int], purpose: str, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """Uniform draws in [0, 1), (len(rows), *shape), row by row a function of (seed, purpose, row)."""
    bits = _bits(seed, rows, purpose, math.prod(shape), device)
    return ((bits & 0xFFFFFF) * 2.0**-24).view(len(rows), *shape).to(device)


def normal(seed: int, rows: list[int], purpose: str, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal draws, (len(rows), *shape), row by row a function of (seed, purpose, row).

    Box-Muller on halves of 64 bits, in float64: what a device's logarithm rounds otherwise than another's is gone in
    float32.
    """
    n = math.prod(shape)
    bits = _bits(seed, rows, purpose, -(-n // 2), device)
    radius = ((bits & 0xFFFFFFFF) + 1).double().mul_(2.0**-32).log_().mul_(-2).sqrt_()
    angle = (bits >> 32).double().mul_(2 * math.pi * 2.0**-32)
    pair = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return pair[:, :n].float().view(len(rows), *shape).to(device)


def _bits(seed: int, rows: list[int], purpose: str, n: int, device: torch.device | str) -> Tensor:
    """64 random bits (len(rows), n) as int64: SplitMix64 (Steele et al., 2014), its state set by (seed, purpose, row).

    All rows at once and on the device itself, unlike a generator for each. (Apple's GPUs lack float64.)
    """
    device = torch.device("cpu" if torch.device(device).type == "mps" else device)
    keys = torch.tensor([derive(seed, purpose, row) for row in rows], dtype=torch.int64)
    # Pinned, so that nothing waits for the device.
    keys = (keys.pin_memory() if device.type == "cuda" else keys).to(device, non_blocking=True)
    x = keys[:, None] + torch.arange(1, n + 1, device=device) * GOLDEN
    x = (x ^ _shifted(x, 30)) * MIX[0]
    x = (x ^ _shifted(x, 27)) * MIX[1]
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """x >> by, zeros coming in: int64 shifts copies of its sign in."""
    return x >> by & (1 << 64 - by) - 1
