"""A study's figure: each score with its interval, arm by arm, over a value of the arms, or one score over another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from unifluid.report.charts import COLOURS
from unifluid.report.runs import Curve
from unifluid.studies.compare import Estimate
from unifluid.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Estimates = Mapping[str, Mapping[str, Estimate]]  # arm -> score -> estimate
Curves = Mapping[str, Mapping[str, Sequence[Curve]]]  # arm -> loss -> one for each seed
BARS = {"fmt": "o", "markersize": 4, "capsize": 2, "linewidth": 1.2}
PANEL = 2.9  # inches wide
LINE = 0.3  # inches an arm takes, or a line of the legend
LEGEND = 3  # entries side by side
CROWDED = 4  # curves; the bars of more would hide each other


def draw(study: Study, found: Estimates, curves: Curves) -> Figure:
    from matplotlib.figure import Figure

    if study.figure.curves:
        figure = Figure((PANEL * len(study.figure.curves), 2.6), layout="constrained")
        panels = figure.subplots(1, len(study.figure.curves), squeeze=False)[0]
        for axes, tag in zip(panels, study.figure.curves, strict=True):
            _over_steps(axes, curves, tag)
        _legend(figure, panels)
        return figure
    if study.figure.plane:
        figure = Figure((4.6, 3.4), layout="constrained")
        _plane(figure.add_subplot(), study, found)
        return figure
    scores = [score for score in study.scores if any(score in own for own in found.values())]
    height = 2.6 if study.figure.axis else 0.9 + LINE * len(found)
    figure = Figure((PANEL * len(scores), height), layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=not study.figure.axis, squeeze=False)[0]
    for axes, score in zip(panels, scores, strict=True):
        (_over_axis if study.figure.axis else _by_arm)(axes, study, found, score)
        axes.set_title(score, fontsize=9)
    _legend(figure, panels)
    return figure


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """One below all panels."""
    entries = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if entries:
        rows = -(-len(entries) // LEGEND)
        figure.set_figheight(figure.get_figheight() + LINE * rows)
        place = {"loc": "outside lower center", "ncols": LEGEND, "fontsize": 7, "frameon": False}
        figure.legend(entries.values(), entries.keys(), **place)


def _over_steps(axes: Axes, curves: Curves, tag: str) -> None:
    """A line for each seed, a colour for each arm."""
    for colour, (arm, own) in zip(COLOURS * len(curves), curves.items(), strict=False):
        for seed, curve in enumerate(own.get(tag, ())):
            axes.plot(curve.steps, curve.values, color=colour, linewidth=1.2, label=None if seed else arm)
    axes.set_title(tag, fontsize=9)
    axes.set_xlabel("step")


def _by_arm(axes: Axes, study: Study, found: Estimates, score: str) -> None:
    for row, (_, own) in enumerate(found.items()):
        if score in own:
            axes.errorbar(own[score].mean, row, xerr=own[score].half or 0, color=COLOURS[0], **BARS)
    axes.set_yticks(range(len(found)), list(found))
    axes.set_ylim(len(found) - 0.5, -0.5)


def _over_axis(axes: Axes, study: Study, found: Estimates, score: str) -> None:
    """A curve for each setting of the other values; arms that have no value of the axis are lines across."""
    axis = study.figure.axis
    curves: dict[str, list[tuple[float, Estimate]]] = {}
    for arm, own in found.items():
        values = study.entries[arm].values
        if score in own and axis in values:
            others = " ".join(f"{name}={value}" for name, value in values.items() if name != axis)
            curves.setdefault(others, []).append((values[axis], own[score]))
        elif score in own:
            axes.axhline(own[score].mean, color=COLOURS[-1], linewidth=1, linestyle="dashed", label=arm)
    for colour, (label, points) in zip(COLOURS * len(curves), curves.items(), strict=False):
        x, estimates = zip(*points, strict=True)
        means, halves = [e.mean for e in estimates], [e.half or 0 for e in estimates]
        bars = halves if len(curves) <= CROWDED else None
        axes.errorbar(x, means, bars, color=colour, label=label or None, **BARS | {"fmt": "o-"})
    if study.figure.log:
        axes.set_xscale("log")
    axes.set_xlabel(axis)


def _plane(axes: Axes, study: Study, found: Estimates) -> None:
    x, y = study.figure.plane
    points = {arm: (own[x], own[y]) for arm, own in found.items() if x in own and y in own}
    for arm, (a, b) in points.items():
        axes.errorbar(a.mean, b.mean, b.half or 0, a.half or 0, color=COLOURS[0], **BARS)
        axes.annotate(arm, (a.mean, b.mean), xytext=(5, 4), textcoords="offset points", fontsize=8)
    joined = [pair for arm, pair in points.items() if study.entries[arm].values]
    axes.plot([a.mean for a, _ in joined], [b.mean for _, b in joined], color=COLOURS[0], linewidth=0.8, alpha=0.6)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
