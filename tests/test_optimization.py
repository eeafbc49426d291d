"""Muon on batches of matrices: what torch.optim.Muon does one by one, and a singular value decomposition says."""

from __future__ import annotations

import pytest
import torch

from unifluid.optimization import BatchedMuon, orthogonalized

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def matrices(seed: int = 0) -> list[torch.nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    shapes = [(8, 8), (8, 20), (20, 8), (8, 20), (8, 8)]
    return [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in shapes]


def test_updates_equal_those_of_torch():
    ours, theirs = matrices(), matrices()
    settings = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "ns_steps": 3}
    batched = BatchedMuon(ours, **settings)
    one_by_one = torch.optim.Muon(theirs, **settings, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for p, q, gradient in zip(ours, theirs, matrices(1 + step), strict=True):
            p.grad, q.grad = gradient.detach().clone(), gradient.detach().clone()
        batched.step()
        one_by_one.step()
    for before, p, q in zip(matrices(), ours, theirs, strict=True):
        error = (p - q).norm() / (q - before).norm()
        assert error < 0.02, "apart from torch's bf16"


@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 5, 12), (2, 12, 5)])
def test_orthogonalized_keeps_the_directions_and_evens_the_singular_values(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    values = u.mT @ orthogonalized(x, COEFFICIENTS, 5) @ v.mT
    diagonal = values.diagonal(dim1=1, dim2=2)
    assert (values - torch.diag_embed(diagonal)).abs().max() < 1e-4
    assert 0.6 < diagonal.min() and diagonal.max() < 1.3


def test_a_matrix_without_a_gradient_stays():
    parameters = matrices()
    parameters[0].grad = torch.ones(8, 8)
    BatchedMuon(parameters, lr=0.1).step()
    assert [torch.equal(p, q) for p, q in zip(parameters, matrices(), strict=True)] == [False, *[True] * 4]
