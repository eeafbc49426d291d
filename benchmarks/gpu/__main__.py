"""All that needs a GPU, in one command under nine minutes: decoding at 2B, training, kernels, collectives.

Parts run in order of worth, each in a time box; an error, a lack of memory or of time is a row of its own and stops
that part alone. Every row is written at once, so the command may be cut off.
"""

from __future__ import annotations

import argparse
import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu import checks, drawing, training
from benchmarks.harness import Bench, main

# Part: its work, and the seconds it may take.
PARTS: dict[str, tuple[Callable[[Bench], None], int]] = {
    "drawing at 2B": (drawing.run, 170),
    "training the 2B recipe": (training.recipe, 130),
    "a step of the longer run": (training.longer_run, 70),
    "FlexAttention": (checks.flex_attention, 100),
    "NCCL": (checks.collectives, 30),
}


def run(bench: Bench) -> None:
    if not torch.cuda.is_available() and not bench.tiny:
        raise ValueError("there is no GPU here; --tiny shows on a CPU that everything works")
    for name, (part, seconds) in PARTS.items():
        if not bench.wants(name):
            continue
        start, error = time.monotonic(), None
        try:
            with time_box(0 if bench.tiny else seconds):
                part(bench)
        except Exception as caught:  # whatever it is, the parts that follow are worth as much as before
            error = f"{type(caught).__name__}: {str(caught).splitlines()[0] if str(caught) else ''}"[:300]
        bench.put({"case": f"part: {name}", "seconds": round(time.monotonic() - start, 1), "error": error})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def time_box(seconds: int) -> Iterator[None]:
    """Raises TimeoutError once `seconds` are over, as soon as Python runs again; 0 for no limit."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after its {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def flags(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(repeats=7)


if __name__ == "__main__":
    main("gpu", __doc__, run, flags=flags)
