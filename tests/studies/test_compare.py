"""Intervals are those of closed forms and of scipy; a verdict is never that of a mean alone."""

import math

import numpy as np
import pytest
from scipy import stats

from unifluid.studies.compare import Finding, Reading, compare, estimate, overall
from unifluid.studies.study import Expectation

ABOVE = Expectation("score", "a", "b")
BELOW = Expectation("score", "a", "b", above=False)
UNDECIDED = "too few seeds to tell"


def readings(values, items=None):
    """Readings by seed."""
    items = [()] * len(values) if items is None else items
    return {seed: Reading(value, tuple(own)) for seed, (value, own) in enumerate(zip(values, items, strict=True))}


def draws(seed, seeds=3, items=40, mean=0.0):
    """Items of several seeds (seeds, items), and their readings."""
    drawn = np.random.default_rng(seed).normal(mean, 1, (seeds, items))
    return drawn, readings(drawn.mean(1), drawn)


def half_of_seeds(values):
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return (high - low) / 2


def half_of_items(columns):
    low, high = stats.norm.interval(0.95, loc=np.mean(columns), scale=stats.sem(columns))
    return (high - low) / 2


def test_seeds_alone_have_students_interval():
    for values in ([0.5, 0.7], [0.1, 0.2, 0.6], list(np.random.default_rng(0).random(9))):
        found = estimate([Reading(value) for value in values])
        assert found.mean == pytest.approx(np.mean(values)) and found.half == pytest.approx(half_of_seeds(values))
        low, high = stats.ttest_1samp(values, 0).confidence_interval()
        assert (found.low, found.high) == pytest.approx((low, high))
    assert estimate([Reading(0.0), Reading(1.0)]).half == pytest.approx(12.706 * 0.5, rel=1e-4)


def test_one_seed_has_the_interval_of_its_items():
    items = np.random.default_rng(1).random(50)
    found = estimate([Reading(items.mean(), tuple(items))])
    assert found.half == pytest.approx(half_of_items(items))
    assert str(found) == f"{items.mean():.3f} ± {found.half:.3f}"


def test_one_seed_without_items_has_no_interval():
    for reading in (Reading(0.25), Reading(0.25, (0.25,))):
        found = estimate([reading])
        assert (found.mean, found.half, found.low, found.high, str(found)) == (0.25, None, None, None, "0.250")
    with pytest.raises(ValueError, match="needs at least one seed"):
        estimate([])


def test_seeds_and_items_add_in_quadrature():
    drawn, found = draws(2)
    expected = math.hypot(half_of_seeds(drawn.mean(1)), half_of_items(drawn.mean(0)))
    assert estimate(list(found.values())).half == pytest.approx(expected)


def test_items_of_another_number_are_left_out():
    drawn, _ = draws(3)
    uneven = readings(drawn.mean(1), [drawn[0], drawn[1], drawn[2][:-1]])
    assert estimate(list(uneven.values())).half == pytest.approx(half_of_seeds(drawn.mean(1)))


def test_arms_are_compared_seed_by_seed_and_item_by_item():
    a, of = draws(4)
    b = a - 0.2 + np.random.default_rng(5).normal(0, 0.1, a.shape)
    finding = compare(ABOVE, of, readings(b.mean(1), b))
    paired = a - b
    assert finding.difference.mean == pytest.approx(paired.mean()) and finding.seeds == 3
    expected = math.hypot(half_of_seeds(paired.mean(1)), half_of_items(paired.mean(0)))
    assert finding.difference.half == pytest.approx(expected)
    low, high = stats.ttest_rel(a.mean(1), b.mean(1)).confidence_interval()
    by_seed = compare(ABOVE, readings(a.mean(1)), readings(b.mean(1))).difference
    assert (by_seed.low, by_seed.high) == pytest.approx((low, high))
    unpaired = [estimate(list(own.values())).half for own in (of, readings(b.mean(1), b))]
    assert finding.difference.half < min(unpaired) / 2, "what is easy for both falls out"


def test_only_seeds_that_both_have_are_compared():
    of = {0: Reading(0.9), 1: Reading(0.5), 2: Reading(0.6), 5: Reading(0.0)}
    than = {5: Reading(0.1), 2: Reading(0.2), 1: Reading(0.2)}
    finding = compare(ABOVE, of, than)
    assert finding.seeds == 3 and finding.difference.mean == pytest.approx((0.3 + 0.4 - 0.1) / 3)
    nothing = compare(ABOVE, {0: Reading(1.0)}, {1: Reading(0.0)})
    assert (nothing.difference, nothing.seeds, nothing.verdict) == (None, 0, UNDECIDED)
    assert str(nothing) == f"score: a above b: {UNDECIDED} (not measured)"


def test_arms_with_other_numbers_of_items_are_compared_seed_by_seed():
    a, of = draws(6)
    b, _ = draws(7, mean=-1.0)
    than = readings(b.mean(1), b[:, 1:])
    assert compare(ABOVE, of, than).difference.half == pytest.approx(half_of_seeds(a.mean(1) - b.mean(1)))


BETTER, SAME, WORSE = ([0.70, 0.71, 0.69], [0.50, 0.52, 0.49], [0.30, 0.31, 0.29])
NOISY = [0.2, 0.9, 0.7]


@pytest.mark.parametrize(
    ("expectation", "of", "verdict"),
    [
        (ABOVE, BETTER, "holds"),
        (ABOVE, WORSE, "does not"),
        (ABOVE, NOISY, UNDECIDED),
        (ABOVE, SAME, UNDECIDED),
        (BELOW, BETTER, "does not"),
        (BELOW, WORSE, "holds"),
        (BELOW, NOISY, UNDECIDED),
        (Expectation("score", "a", "b", margin=0.1), SAME, "holds"),
        (Expectation("score", "a", "b", above=False, margin=0.1), SAME, "holds"),
        (Expectation("score", "a", "b", margin=0.1), WORSE, "does not"),
        (Expectation("score", "a", "b", margin=0.3), WORSE, "holds"),
        (Expectation("score", "a", "b", above=False, margin=0.1), BETTER, "does not"),
        (Expectation("score", "a", "b", margin=0.1), NOISY, UNDECIDED),
    ],
)
def test_verdicts(expectation, of, verdict):
    assert compare(expectation, readings(of), readings([0.50, 0.51, 0.50])).verdict == verdict


def test_one_seed_is_too_few_however_many_items_it_has():
    items = np.random.default_rng(8).random(10_000)
    finding = compare(ABOVE, readings([items.mean() + 1], [items + 1]), readings([items.mean()], [items]))
    assert finding.difference.mean == pytest.approx(1) and finding.difference.half == pytest.approx(0, abs=1e-9)
    assert finding.verdict == UNDECIDED


@pytest.mark.parametrize("expectation", [ABOVE, BELOW, Expectation("score", "a", "b", margin=0.4)])
def test_a_verdict_never_depends_on_the_mean_alone(expectation):
    """Every mean becomes undecided when its seeds scatter enough, and decided when they scatter little enough; what
    decides is on which side of the interval nothing is left."""
    random = np.random.default_rng(9)
    sign = 1 if expectation.above else -1
    for _ in range(200):
        n, mean, offset = int(random.integers(2, 8)), random.normal(), random.normal()
        scatter = random.normal(size=n)
        scatter = (scatter - scatter.mean()) / stats.sem(scatter)
        verdicts = {}
        for scale in (1e-6, 10 ** random.uniform(-3, 1), 100.0):
            than = random.normal(size=n)
            finding = compare(expectation, readings(than + mean + offset + scale * scatter), readings(than + offset))
            assert finding.difference.mean == pytest.approx(mean, abs=1e-9)
            bound = -sign * expectation.margin  # what the difference must lie beyond
            low, high = (x - bound for x in (finding.difference.low, finding.difference.high))
            expected = {1: "holds", -1: "does not"}.get(sign * (low > 0) - sign * (high < 0), UNDECIDED)
            assert finding.verdict == expected
            verdicts[scale] = finding.verdict
        right = sign * mean + expectation.margin > 0
        assert verdicts[1e-6] == ("holds" if right else "does not") and verdicts[100.0] == UNDECIDED
    assert compare(expectation, {0: Reading(5.0)}, {0: Reading(-5.0)}).verdict == UNDECIDED


def test_nothing_is_decided_about_what_is_no_number():
    finding = compare(ABOVE, readings([math.nan, 1.0]), readings([0.0, 0.0]))
    assert finding.verdict == UNDECIDED


def test_a_claim_holds_where_all_that_is_expected_does():
    def of(*verdicts):
        return overall([Finding(ABOVE, None, 3, verdict) for verdict in verdicts])

    assert of("holds", "holds") == "holds"
    assert of("holds", UNDECIDED) == UNDECIDED
    assert of("holds", UNDECIDED, "does not") == "does not"
    assert of() is None
