"""Timing in turn, and whether both sides give the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Clock = Callable[[], float]  # does the work once and gives the seconds it took


def milliseconds(seconds: float) -> float:
    return float(f"{1000 * seconds:.4g}")


def clocked(f: Callable[[], Any]) -> Clock:
    """`f` timed; on a GPU from and to the moments when it is idle."""

    def clock() -> float:
        synchronize()
        start = time.perf_counter()
        f()
        synchronize()
        return time.perf_counter() - start

    return clock


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(clocks: dict[str, Clock], repeats: int) -> dict[str, list[float]]:
    """Seconds of each of `clocks`, taken in turn, so that a machine that slows down slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for _ in range(repeats):
        for name, clock in clocks.items():
            seconds[name].append(clock())
    return seconds


def difference(made: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value expected; infinite where shapes differ or for NaN."""
    if made.shape != expected.shape:
        return float("inf")
    made, expected = made.double(), expected.double()
    error = ((made - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()
    return float(f"{error:.3g}") if error == error else float("inf")


def agree(what: str, made: Any, expected: Any, tolerance: float) -> float:
    """The `difference` of both. Raises ValueError, in plain words, where it is above `tolerance`."""
    if not isinstance(made, Tensor) or not isinstance(expected, Tensor):
        raise ValueError(f"{what}: there is nothing to compare with, so no speed is reported")
    error = difference(made, expected)
    if error > tolerance:
        raise ValueError(
            f"{what}: ours and the reference do not give the same: they differ by {error:.2g} of the largest value, "
            f"{tolerance:.0e} is allowed. A speed-up that changes results is none, so nothing is reported."
        )
    return error
