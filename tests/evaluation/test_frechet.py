"""The Fréchet distance beside closed forms, torchmetrics' own and scipy's matrix root."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import _compute_fid

from unifluid.evaluation.frechet import Normal, frechet_distance


def features(seed, n=300, width=12, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(n, width, generator=generator) @ mix * scale + shift


def test_normal_is_mean_and_covariance():
    x = features(0)
    normal = Normal.of(x)
    assert normal.n == 300 and normal.mean.dtype == normal.covariance.dtype == torch.float64
    assert np.allclose(normal.mean, np.mean(x.double().numpy(), 0), rtol=0, atol=1e-12)
    assert np.allclose(normal.covariance, np.cov(x.double().numpy(), rowvar=False), rtol=0, atol=1e-12)


def test_closed_forms():
    """Equal distributions; a shift; commuting covariances, where the root is that of the eigenvalues."""
    a = Normal.of(features(1))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    shift = torch.arange(12, dtype=torch.float64)
    assert frechet_distance(a, Normal(a.mean + shift, a.covariance, 2)) == pytest.approx(shift.square().sum().item())
    basis = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    p, q = torch.tensor([[4.0, 1, 9, 0.5, 2], [1, 16, 4, 3, 0.1]], dtype=torch.float64)
    one, other = (Normal(torch.zeros(5).double(), basis * values @ basis.T, 2) for values in (p, q))
    expected = (p.sqrt() - q.sqrt()).square().sum().item()
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [300, 40])
def test_as_others_compute_it(n):
    a, b = Normal.of(features(3, n)), Normal.of(features(4, n, scale=1.5, shift=0.3))
    ours = frechet_distance(a, b)
    assert ours == pytest.approx(_compute_fid(a.mean, a.covariance, b.mean, b.covariance).item(), rel=1e-9)
    root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    gap = (a.mean - b.mean).square().sum().item()
    assert ours == pytest.approx(gap + np.trace((a.covariance + b.covariance).numpy() - 2 * root), rel=1e-9)
    assert ours == pytest.approx(frechet_distance(b, a), rel=1e-12)


def test_fewer_items_than_features():
    """Singular covariances: a general matrix root turns complex, the symmetric one stays exact."""
    x = features(5, n=4)
    a, b = Normal.of(x), Normal.of(x + 2)
    assert frechet_distance(a, b) == pytest.approx(4 * 12, rel=1e-6)


def test_what_no_distance_can_be_made_of():
    with pytest.raises(ValueError, match="at least 2 items"):
        Normal.of(features(0, n=1))
    with pytest.raises(ValueError, match="not finite"):
        Normal.of(torch.tensor([[0.0], [float("nan")]]))
    with pytest.raises(ValueError, match="features of 12 and of 3 numbers"):
        frechet_distance(Normal.of(features(0)), Normal.of(features(0, width=3)))
