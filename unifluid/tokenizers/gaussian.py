"""The diagonal Gaussian that a KL autoencoder encodes a picture to."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(moments: Tensor, noise: Tensor | None) -> Tensor:
    """Moments (B, 2C, h, w), noise (B, C, h, w) -> latents: mean + σ · noise, or the mean where noise is None."""
    mean, log_variance = moments.chunk(2, dim=1)
    if noise is None:
        return mean
    return mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise
