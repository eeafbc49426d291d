"""Intervals against published values, an independent solution of their equation, and simulation."""

import math

import numpy as np
import pytest

from unifluid.evaluation.scores import Score, wilson


def test_share_of_right_outcomes():
    score = Score.of([True, False, True, True])
    assert (score.value, score.n) == (0.75, 4)
    with pytest.raises(ValueError, match="at least one outcome"):
        Score.of([])


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (999, 1000)])
def test_wilson_limits_solve_their_equation(hits, n):
    """The limits are the p for which the observed share lies z standard errors from p."""
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    for p in (low, high):
        if 0 < p < 1:
            assert abs(hits / n - p) / math.sqrt(p * (1 - p) / n) == pytest.approx(1.959964, rel=1e-5)


def test_wilson_published_values():
    """Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (hits, n), expected in published.items():
        assert wilson(hits, n) == pytest.approx(expected, abs=5e-5)


def test_interval_of_a_mean_covers_the_truth_95_times_in_100():
    rng, shares, sizes = np.random.default_rng(0), (0.95, 0.8, 0.5, 0.3, 0.1, 0.9), (30, 60, 40, 80, 50, 30)
    covered = 0
    for _ in range(1000):
        parts = [Score.of(rng.random(n) < p) for p, n in zip(shares, sizes, strict=True)]
        mean = Score.mean(parts)
        assert mean.value == pytest.approx(sum(part.value for part in parts) / 6) and mean.n == sum(sizes)
        covered += mean.low <= sum(shares) / 6 <= mean.high
    assert 930 <= covered <= 975
    with pytest.raises(ValueError, match="at least one score"):
        Score.mean([])


def test_items_have_the_score_as_their_mean():
    shares, values = Score.of([True, False, True]), Score.of_values([0.5, 2.0])
    assert (shares.items, values.items, Score.of_values([3.0]).items) == ((1.0, 0.0, 1.0), (0.5, 2.0), (3.0,))
    mean = Score.mean([shares, values, Score.of([False] * 4)])
    assert len(mean.items) == mean.n == 9 and np.mean(mean.items) == pytest.approx(mean.value)
    assert mean.items[:3] == pytest.approx((1.0, 0.0, 1.0)) and mean.items[5:] == (0,) * 4
    distance = Score(2.0, 50)
    assert distance.items == () == Score.mean([shares, distance]).items
    assert Score(0.5, 2, items=(0.0, 1.0)) == Score(0.5, 2) and "items" not in repr(shares)
