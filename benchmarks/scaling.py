"""How the cost of drawing grows with tokens, head steps, batch and layers: fitted exponents, and a plot.

One of the four changes at a time, from the same middle; the exponent is the slope of a straight line through the
logarithms, by least squares. 1 is proportional; less, where fixed costs are shared.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from benchmarks.harness import Bench, main
from benchmarks.models import decoder, make_model
from benchmarks.pieces import Drawing
from benchmarks.timing import clocked, interleaved
from unifluid.heads import DiffusionMLP

MIDDLE = {"tokens": 64, "head steps": 20, "batch": 4, "layers": 4}
SWEEPS = {
    "tokens": (16, 36, 64, 144, 256),
    "head steps": (5, 10, 20, 40, 80),
    "batch": (1, 2, 4, 8, 16, 32),
    "layers": (1, 2, 4, 8, 16),
}
TINY = {"tokens": (4, 9), "head steps": (2, 4), "batch": (1, 2), "layers": (1, 2)}
WIDTH, HEAD = 256, {"depth": 3, "width": 256}


def drawing(tokens: int, steps: int, batch: int, layers: int) -> Drawing:
    side = math.isqrt(tokens)
    model = make_model(decoder(False, layers, WIDTH), lambda *dims: DiffusionMLP(*dims, **HEAD), (side, tokens // side))
    return Drawing(model, model, batch, steps)


def run(bench: Bench) -> None:
    middle = {name: sizes[0] for name, sizes in TINY.items()} if bench.tiny else MIDDLE
    found = {}
    for name, sizes in (TINY if bench.tiny else SWEEPS).items():
        if not bench.wants(name):
            continue
        bench.say(f"{name} …")
        clocks = {}
        for size in sizes:
            made = drawing(*(middle | {name: size}).values())
            clocks[size] = clocked(lambda made=made: made.tokens(made.whole))
            clocks[size]()
        seconds = interleaved(clocks, bench.repeats)
        for size, times in seconds.items():
            bench.add(f"{name}: {size}", {"ours": times})
        found[name] = np.array([*seconds]), np.median([*seconds.values()], axis=1)
        exponent, error = fitted(*found[name])
        bench.put({"case": f"{name}: exponent", "exponent": exponent, "root_mean_square_of_log_residuals": error})
    if found:
        plot(bench, found, middle)


def fitted(sizes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Slope of log seconds over log sizes, and the root mean square of what is left."""
    x, y = np.log(sizes), np.log(seconds)
    line = np.polyfit(x, y, 1)
    return round(float(line[0]), 3), round(float(np.sqrt(np.mean((np.polyval(line, x) - y) ** 2))), 3)


def plot(bench: Bench, found: dict[str, tuple[np.ndarray, np.ndarray]], middle: dict[str, int]) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(3.2 * len(found), 3), squeeze=False, layout="constrained")
    for axis, (name, (sizes, seconds)) in zip(axes[0], found.items(), strict=True):
        exponent, _ = fitted(sizes, seconds)
        line = np.exp(np.polyval(np.polyfit(np.log(sizes), np.log(seconds), 1), np.log(sizes)))
        axis.loglog(sizes, seconds, "o", color="#1f5fa8")
        axis.loglog(sizes, line, "-", color="#1f5fa8", alpha=0.5)
        axis.set(title=f"exponent {exponent:.2f}", xlabel=name)
        axis.set_xticks(sizes, sizes)
        axis.minorticks_off()
    axes[0][0].set_ylabel("seconds for all pictures")
    figure.savefig(bench.file.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
    bench.note(f"![Cost over size]({bench.name}.svg)")
    bench.note("From " + ", ".join(f"{name} {size}" for name, size in middle.items()) + "; width 256, guidance on.")


if __name__ == "__main__":
    with torch.inference_mode():
        main("scaling", __doc__, run)
