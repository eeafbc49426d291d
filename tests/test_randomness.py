"""Draws are functions of their key."""

from __future__ import annotations

import pytest
import torch

from unifluid import randomness


def test_every_pass_is_a_permutation_and_passes_differ():
    for size in (1, 2, 3, 7, 64, 100, 257):
        passes = [[randomness.permuted_index(3, p * size + i, size) for i in range(size)] for p in range(4)]
        assert all(sorted(p) == list(range(size)) for p in passes)
        if size >= 7:
            assert len({tuple(p) for p in passes}) == 4
    assert [randomness.permuted_index(3, i, 64) for i in range(64)] != [
        randomness.permuted_index(4, i, 64) for i in range(64)
    ]


@pytest.mark.parametrize("size", [4, 5, 10, 17])
def test_shuffling_is_even(size):
    """Over many passes every item comes first about equally often, and so does every step to the next (chi-square)."""
    passes = 3000
    first, step = [0] * size, [0] * size
    for p in range(passes):
        a, b = (randomness.permuted_index(0, p * size + i, size) for i in range(2))
        first[a] += 1
        step[(b - a) % size] += 1
    assert step[0] == 0
    for counts in (first, step[1:]):
        expected, freedom = passes / len(counts), len(counts) - 1
        chi = sum((c - expected) ** 2 / expected for c in counts)
        assert chi < freedom + 5 * (2 * freedom) ** 0.5, counts


def test_a_huge_stream_needs_no_table():
    assert 0 <= randomness.permuted_index(0, 10**15, 10**12) < 10**12


def test_draws_differ_by_every_part_of_the_key():
    keys = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 0), (0, "a1")]
    assert len({randomness.derive(*key) for key in keys}) == len(keys)
    assert len({tuple(torch.rand(3, generator=randomness.generator(*key)).tolist()) for key in keys}) == len(keys)
    assert all(0 <= randomness.derive(s, "x") < 2**63 for s in range(100))


def test_a_row_is_drawn_alike_whatever_is_drawn_beside_it():
    for draw in (randomness.normal, randomness.uniform):
        together = draw(5, [4, 9, 2], "t", 3, 2)
        assert together.shape == (3, 3, 2)
        assert torch.equal(together[1:2], draw(5, [9], "t", 3, 2))
        assert not torch.equal(together[0], together[1])
        assert draw(5, [], "t", 3, 2).shape == (0, 3, 2)
        assert not torch.equal(together, draw(5, [4, 9, 2], "u", 3, 2))


def test_bits_are_those_of_splitmix64(monkeypatch):
    """The first outputs for the state 1234567, as published with the generator."""
    monkeypatch.setattr(randomness, "derive", lambda *key: 1234567)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [bits % 2**64 for bits in randomness._bits(0, [0], "x", 4, "cpu")[0].tolist()] == published


def test_distributions():
    """Kolmogorov-Smirnov: both distributions, within a row and over the first draws of many rows; no row is another's
    echo."""
    for rows, n in ((100, 2000), (100_000, 2)):
        x, u = (draw(0, list(range(rows)), "x", n) for draw in (randomness.normal, randomness.uniform))
        for values, cdf in ((x, torch.special.ndtr), (u, lambda v: v)):
            ordered = cdf(values.flatten().double().sort().values)
            steps = torch.arange(1, ordered.numel() + 1) / ordered.numel()
            assert (ordered - steps).abs().max() * ordered.numel() ** 0.5 < 1.95  # exceeded by chance once in 1,000
        assert u.min() >= 0 and u.max() < 1 and x.abs().max() < 6.7
    x = randomness.normal(0, list(range(200)), "x", 2000)
    correlation = torch.corrcoef(x) - torch.eye(200)
    assert correlation.abs().max() < 5.5 * 2000**-0.5
    assert (x[:, :-1] * x[:, 1:]).mean().abs() < 4 * x.numel() ** -0.5
    assert (x[:, :1000] * x[:, 1000:]).mean().abs() < 4 * (x.numel() / 2) ** -0.5  # the two of one Box-Muller pair


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    randomness.normal(0, [1], "x", 3)
    assert torch.equal(state, torch.random.get_rng_state())
