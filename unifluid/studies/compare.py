"""What runs say of arms: means over seeds with 95 % intervals over seeds and items, and of differences between arms.

Two arms are compared seed by seed and item by item: what a seed or an item makes easy for both falls out. An interval
adds two independent parts in quadrature: the means of the seeds by Student's t, and the items, averaged over seeds, by
their standard error. The first is wide for few seeds (t is 12.7 for two, 4.3 for three), as it should be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from unifluid.evaluation.scores import Z
from unifluid.studies.study import Expectation

Verdict = Literal["holds", "does not", "too few seeds to tell"]


@dataclass(frozen=True)
class Reading:
    """One score of one run. `items`: the numbers whose mean it is, none where it is a distance or a time."""

    value: float
    items: tuple[float, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. Without an interval where one seed has no items."""

    mean: float
    half: float | None  # of the 95 % interval

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half is None else f"{self.mean:.3f} ± {self.half:.3f}"


@dataclass(frozen=True)
class Finding:
    expectation: Expectation
    difference: Estimate | None  # of − than; None where no seed has both
    seeds: int
    verdict: Verdict

    def __str__(self) -> str:
        seen = "not measured" if self.difference is None else f"difference {self.difference}, {self.seeds} seeds"
        return f"{self.expectation}: {self.verdict} ({seen})"


def estimate(readings: Sequence[Reading]) -> Estimate:
    """Readings of one score, one for each seed -> their mean. Raises ValueError where there are none."""
    if not readings:
        raise ValueError("an estimate needs at least one seed, got none")
    values = [reading.value for reading in readings]
    columns = [reading.items for reading in readings]
    alike = len({len(items) for items in columns}) == 1 and len(columns[0]) > 1
    parts = []
    if len(values) > 1:
        parts.append(_quantile(len(values) - 1) * _standard_error(values))
    if alike:
        parts.append(Z * _standard_error([math.fsum(column) / len(values) for column in zip(*columns, strict=True)]))
    return Estimate(math.fsum(values) / len(values), math.hypot(*parts) if parts else None)


def compare(expectation: Expectation, of: Mapping[int, Reading], than: Mapping[int, Reading]) -> Finding:
    """Readings of two arms by seed -> whether the expectation holds, by the interval of their difference."""
    seeds = sorted(set(of) & set(than))
    if not seeds:
        return Finding(expectation, None, 0, "too few seeds to tell")
    difference = estimate([_difference(of[seed], than[seed]) for seed in seeds])
    return Finding(expectation, difference, len(seeds), _verdict(expectation, difference, len(seeds)))


def overall(findings: Sequence[Finding]) -> Verdict | None:
    """A claim holds where all that is expected holds, and does not where any of it does not."""
    verdicts = {finding.verdict for finding in findings}
    order: tuple[Verdict, ...] = ("does not", "too few seeds to tell", "holds")
    return next((verdict for verdict in order if verdict in verdicts), None)


def _difference(a: Reading, b: Reading) -> Reading:
    items = zip(a.items, b.items, strict=True) if len(a.items) == len(b.items) else ()
    return Reading(a.value - b.value, tuple(x - y for x, y in items))


def _verdict(expectation: Expectation, difference: Estimate, seeds: int) -> Verdict:
    """One seed says nothing of others, however many items it has."""
    if seeds < 2 or difference.half is None:
        return "too few seeds to tell"
    sign = 1 if expectation.above else -1
    middle = sign * difference.mean + expectation.margin
    if middle > difference.half:
        return "holds"
    return "does not" if middle < -difference.half else "too few seeds to tell"


def _standard_error(values: Sequence[float]) -> float:
    mean, n = math.fsum(values) / len(values), len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _quantile(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
