"""Fréchet distance between two sets of features, each summarised as a normal distribution.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule …", 2017 (arXiv 1706.08500, §4); the closed form
for normal distributions is Dowson and Landau's, 1982. It is called FID on one network's features only: a distance is
always reported under the name of the features it was measured on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normal:
    """Mean (F,) and covariance (F, F) of n feature vectors, in float64."""

    mean: Tensor
    covariance: Tensor
    n: int

    @classmethod
    def of(cls, features: Tensor) -> Normal:
        """Of features (n, F). Raises ValueError where there are fewer than two, or one is not finite."""
        features = features.double()
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a covariance needs features (n, F) of at least 2 items, got {tuple(features.shape)}")
        if not features.isfinite().all():
            raise ValueError("some features are not finite")
        mean = features.mean(0)
        centred = features - mean
        return cls(mean, centred.T @ centred / (len(features) - 1), len(features))


def frechet_distance(a: Normal, b: Normal) -> float:
    """‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a C_b)^½), in squared units of the features.

    The trace of the root is that of (C_a^½ C_b C_a^½)^½, which is symmetric: its eigenvalues are real, however few
    items a covariance is estimated from, where a general matrix root drifts into complex numbers.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features of {len(a.mean)} and of {len(b.mean)} numbers cannot be compared")
    root = _root(a.covariance)
    product = root @ b.covariance @ root
    cross = _eigenvalues((product + product.T) / 2).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross
    return max(distance.item(), 0.0)  # rounding may take equal distributions below zero


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _eigenvalues(symmetric: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(symmetric).clamp(min=0)
