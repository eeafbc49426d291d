"""Layers that several parts share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class Conv(nn.Module):
    """k×k convolution. Its kernels are kept as one matrix (out, k·k·in): Muon can orthogonalise it, and a view of it is
    in channels-last order, which carries over to everything that follows and is faster."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        fan_in = kernel**2 * inputs
        self.weight = nn.Parameter(torch.randn(outputs, fan_in) * fan_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        weight = rearrange(self.weight, "o (p q i) -> o i p q", p=self.kernel, q=self.kernel)
        return F.conv2d(x, weight, self.bias, self.stride, padding=self.kernel // 2)


def normalised(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1] -> as a model was trained that wants (x − mean) / std of images in [0, 1]."""
    if {*mean, *std} == {0.5}:
        return image
    # Without waiting for the device, as `new_tensor` would.
    mean, std = (torch.tensor(v, dtype=image.dtype).to(image.device, non_blocking=True) for v in (mean, std))
    return (image * 0.5 + 0.5 - mean[:, None, None]) / std[:, None, None]
