"""Guidance weights beside the formula they stand for."""

from __future__ import annotations

import math

import pytest
import torch

from unifluid.decoding.guidance import BRANCHES, SCHEDULES, branch_weights, scales

N = 8
SHARE = torch.arange(1, N + 1) / N
BY_HAND = {
    "none": [1.0] * N,
    "constant": [5.0] * N,
    "linear": [1 + 4 * (k + 1) / N for k in range(N)],
    "cosine": [1 + 4 * (1 - math.cos(math.pi * (k + 1) / N)) / 2 for k in range(N)],
}


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_schedules(schedule):
    assert scales(5.0, schedule, SHARE).tolist() == pytest.approx(BY_HAND[schedule])


def test_linear_is_mars():
    """It starts near 1/N of the way, never at 0, and reaches the scale with the last token."""
    made = scales(3.0, "linear", SHARE)
    assert made[0] == 1 + 2 / N and made[-1] == 3


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize(("guidance", "source_guidance"), [(1, None), (3, None), (3, 1.5), (0, None), (3, 1), (1, 2)])
def test_weights_are_the_formula(schedule, guidance, source_guidance):
    branches, weights = branch_weights(guidance, source_guidance, schedule, SHARE)
    assert branches[0] == BRANCHES[0]
    assert (weights.sum(-1) - 1).abs().max() < 1e-6
    both, source, none = e = torch.randn(3, 5)
    at_full = {"none": 0.0}.get(schedule, 1.0)
    s_t = 1 + (guidance - 1) * at_full
    s_i = s_t if source_guidance is None else 1 + (source_guidance - 1) * at_full
    expected = none + s_i * (source - none) + s_t * (both - source)
    made = sum(w * e[BRANCHES.index(b)] for b, w in zip(branches, weights[-1], strict=True))
    assert (made - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("guidance", "source_guidance", "schedule", "used"),
    [
        (1, None, "constant", [0]),
        (1, 1, "linear", [0]),
        (5, None, "none", [0]),
        (5, None, "cosine", [0, 2]),
        (5, 5, "constant", [0, 2]),
        (5, 1, "linear", [0, 1]),
        (5, 2, "linear", [0, 1, 2]),
        (1, 2, "linear", [0, 1, 2]),
    ],
)
def test_branches_without_weight_are_left_out(guidance, source_guidance, schedule, used):
    branches, weights = branch_weights(guidance, source_guidance, schedule, SHARE)
    assert branches == [BRANCHES[i] for i in used] and weights.shape == (N, len(used))
