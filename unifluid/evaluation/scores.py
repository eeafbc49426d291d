"""Scores with their uncertainty: shares of right answers, and means of such shares."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution: intervals are 95 %


@dataclass(frozen=True)
class Score:
    """A value over n items, with its 95 % interval; a distance has none.

    items: for each item the number whose mean is the value, where there are such: two models that were asked the same
        are compared item by item.
    """

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    items: tuple[float, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Score:
        """Share of outcomes that are right. Raises ValueError where there are none."""
        outcomes = list(outcomes)
        if not outcomes:
            raise ValueError("a score needs at least one outcome, got none")
        hits, n = sum(map(bool, outcomes)), len(outcomes)
        return cls(hits / n, n, *wilson(hits, n), tuple(map(float, outcomes)))

    @classmethod
    def of_values(cls, values: Iterable[float]) -> Score:
        """Mean of values, with the interval of a mean of independent ones; a single value has none.

        Raises ValueError where there are none.
        """
        values = list(values)
        if not values:
            raise ValueError("a score needs at least one value, got none")
        n, mean = len(values), math.fsum(values) / len(values)
        if n == 1:
            return cls(mean, n, items=tuple(values))
        half = Z * math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
        return cls(mean, n, mean - half, mean + half, tuple(values))

    @classmethod
    def mean(cls, parts: Sequence[Score]) -> Score:
        """Unweighted mean of independent scores; without an interval where one of them has none.

        Interval by MOVER (Zou & Donner 2008): the parts' distances to their own limits, added in quadrature.
        """
        if not parts:
            raise ValueError("a mean needs at least one score, got none")
        k, value, n = len(parts), math.fsum(part.value for part in parts) / len(parts), sum(part.n for part in parts)
        known = all(part.items for part in parts)
        items = tuple(x * n / (k * part.n) for part in parts for x in part.items) if known else ()
        if any(part.low is None for part in parts):
            return cls(value, n, items=items)
        below = math.hypot(*(part.value - part.low for part in parts)) / k
        above = math.hypot(*(part.high - part.value for part in parts)) / k
        return cls(value, n, value - below, value + above, items)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson 1927): right near 0 and 1 and for small n, unlike ± z·√(pq/n)."""
    p, z2 = hits / n, Z * Z
    centre, half = p + z2 / (2 * n), Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return (0.0 if hits == 0 else low), (1.0 if hits == n else high)
