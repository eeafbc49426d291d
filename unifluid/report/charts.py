"""Curves as SVG for a page: no words of the user's in them, and neutral parts in the colour of the page's text."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from unifluid.report.runs import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Contrast of at least 3 : 1 with white and with the dark page, distinct for most colour-blind readers.
COLOURS = ("#2f7fd6", "#cf6a12", "#259158", "#d3468b", "#8a68d8", "#9a7b0c", "#1793a6", "#d4504a")
DASHES = ("solid", "dashed", "dotted")  # known to CSS as well
NEUTRAL = "#010203"  # stands for the text's colour until the figure is SVG
POINTS = 1200  # in a chart, shared out over its curves
REFERENCES = re.compile(r'(?:href="|url\()#([^")]+)')
SIZE = (4.2, 2.6)  # inches


class Look(NamedTuple):
    colour: str
    dash: str


def looks(labels: Sequence[str]) -> dict[str, Look]:
    """A colour for each label, in order of first appearance; dashes where there are more labels than colours."""
    distinct = dict.fromkeys(labels)
    return {
        label: Look(COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)])
        for i, label in enumerate(distinct)
    }


def style() -> AbstractContextManager[None]:
    """Matplotlib's settings for figures that `svg` turns into a page's."""
    from matplotlib import rc_context

    neutral = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    return rc_context(
        dict.fromkeys(neutral, NEUTRAL)
        | {"svg.fonttype": "none", "svg.hashsalt": "page", "font.family": "sans-serif", "font.size": 9}
        | {"axes.grid": True, "grid.alpha": 0.15}
        | {"axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6}
    )


def svg(figure: Figure) -> str:
    """To be embedded in HTML: transparent, neutral parts in `currentColor`."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue().replace(NEUTRAL, "currentColor")


def chart(curves: Sequence[tuple[str, Curve]], colours: Mapping[str, Look], falling: bool) -> str:
    """Curves with their labels -> SVG. Several of one label are drawn faintly, their mean in full.

    `falling`: losses, which get a logarithmic axis where they span more than a power of ten.
    """
    from matplotlib.figure import Figure

    n = max(30, POINTS // len(curves))
    with style():
        figure = Figure(SIZE, layout="constrained")
        axes = figure.add_subplot()
        for label in dict.fromkeys(label for label, _ in curves):
            look, own = colours[label], [thinned(curve, n) for other, curve in curves if other == label]
            marker = "o" if all(len(curve.steps) < 15 for curve in own) else None
            full = {"color": look.colour, "linestyle": look.dash, "linewidth": 1.7, "marker": marker, "markersize": 3}
            if len(own) > 1:
                for curve in own:
                    axes.plot(*curve, color=look.colour, linestyle=look.dash, linewidth=0.9, alpha=0.4)
            axes.plot(*mean(own), **full)
        scale_axes(axes, [v for _, curve in curves for v in curve.values], falling)
        return svg(figure)


def scale_axes(axes: Axes, values: Sequence[float], falling: bool) -> None:
    """Steps from 0 on, as 10k. No room below 0 for what cannot be there; losses far apart by their logarithms."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    lowest = min(values)
    if lowest >= 0:
        axes.set_ylim(bottom=max(0, axes.get_ylim()[0]))
    if falling and 0 < 10 * lowest < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def thinned(curve: Curve, n: int) -> Curve:
    """At most n points: means of as many neighbours as that takes."""
    size = -(-len(curve.steps) // n)
    chunks = [slice(i, i + size) for i in range(0, len(curve.steps), size)]
    return Curve(*([sum(part[c]) / len(part[c]) for c in chunks] for part in curve))


def mean(curves: Sequence[Curve]) -> Curve:
    """The mean curve, interpolated, over the steps that all of them span; all of the longest where there are none."""
    import numpy as np

    first, last = max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves)
    steps = sorted({s for c in curves for s in c.steps if first <= s <= last})
    if not steps:
        return max(curves, key=lambda c: len(c.steps))
    return Curve(steps, np.mean([np.interp(steps, *c) for c in curves], axis=0).tolist())


def embedded(figures: Sequence[str]) -> list[str]:
    """SVG files -> elements of one page: no prolog, metadata and style, and no id twice."""
    numbers = count()
    return [_embedded(text, next(numbers)) for text in figures]


def _embedded(text: str, number: int) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)  # its style would be that of the whole page
    text = re.sub(r'\sxmlns(?::\w+)?="[^"]*"', "", text).replace("xlink:href=", "href=")
    used = set(REFERENCES.findall(text))
    text = re.sub(r'\sid="([^"]*)"', lambda m: f' id="f{number}-{m[1]}"' if m[1] in used else "", text)
    return REFERENCES.sub(lambda m: m[0].replace("#", f"#f{number}-"), text)
