"""The network inside every image head: an MLP over one token, modulated by time and condition (MAR, 2406.11838)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from unifluid.interfaces import Interval

FREQUENCIES = 128
MATMUL_ROWS = 512  # more rows make no matmul faster per row, only the modulations larger

Modulation = tuple[Tensor, ...]  # shift, 1 + scale and, in a block, gate: each (..., W)
Modulations = tuple[Modulation, ...]  # of each block and of the output


def sinusoid(t: Tensor) -> Tensor:
    """Times (...) -> [cos, sin] features (..., 256), computed in the dtype of t."""
    exponent = torch.arange(FREQUENCIES, dtype=t.dtype, device=t.device) / FREQUENCIES
    angle = t[..., None] * torch.exp(-math.log(10_000) * exponent)
    return torch.cat([angle.cos(), angle.sin()], -1)


def modulation(layer: nn.Linear, y: Tensor) -> Modulation:
    """What `layer` makes of y (..., W): shift, 1 + scale and, if it has three parts, gate."""
    shift, scale, *gate = layer(y).split(layer.in_features, -1)
    return shift, 1 + scale, *gate


class Block(nn.Module):
    """Residual block: LayerNorm, modulated; Linear-SiLU-Linear; gated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, h: Tensor, modulation: Modulation) -> Tensor:
        shift, scale, gate = modulation
        return torch.addcmul(h, gate, self.mlp(torch.addcmul(shift, self.norm(h), scale)))


class AdaLNMLP(nn.Module):
    """(x, t, z) -> prediction, token by token; W is the width.

    Time and condition enter as y = MLP(sinusoid(t)) + Linear(z), which modulates every block. In sampling y does not
    depend on x, so `trajectory` computes the modulations ahead of the steps.
    """

    def __init__(self, in_dim: int, out_dim: int, condition_dim: int, depth: int, width: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_dim, width)
        self.input = nn.Linear(in_dim, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, out_dim)
        self.init_weights()

    def init_weights(self) -> None:
        """As MAR: Xavier; time MLP normal at 0.02; modulations and output zero, so that blocks start as identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for layer in (self.time[0], self.time[2]):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*(block.modulation for block in self.blocks), self.modulation, self.output):
            nn.init.zeros_(layer.weight)

    @property
    def dtype(self) -> torch.dtype:
        return self.input.weight.dtype

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x (K, M, in), t (K, M) floating point, z (M, D) -> (K, M, out)."""
        y = self.time(sinusoid(t).to(self.dtype)) + self.condition(z.to(self.dtype))
        return self.transform(x, self.modulations(y))

    def modulations(self, y: Tensor) -> Modulations:
        y = silu(y)
        return (*(modulation(block.modulation, y) for block in self.blocks), modulation(self.modulation, y))

    def transform(self, x: Tensor, modulations: Modulations) -> Tensor:
        """The part that depends on x: (..., in) -> (..., out). Modulations may have more leading dimensions than x."""
        h = self.input(x.to(self.dtype))
        for block, modulated in zip(self.blocks, modulations[:-1], strict=True):
            h = block(h, modulated)
        shift, scale = modulations[-1]
        return self.output(torch.addcmul(shift, self.norm(h), scale))

    def trajectory(self, t: Tensor, z: Tensor) -> Iterator[Modulations]:
        """The modulations (G, M, ...) of each step t (S,) in turn, for conditions z (G, M, D).

        Small batches leave a matmul waiting for its weights: several steps are computed as one.
        """
        times = self.time(sinusoid(t).to(self.dtype))
        condition = self.condition(z.to(self.dtype))
        steps = max(1, MATMUL_ROWS // max(1, z.shape[0] * z.shape[1]))
        for chunk in times.split(steps):
            parts = self.modulations(chunk[:, None, None] + condition)
            yield from zip(*(zip(*(p.unbind() for p in part), strict=True) for part in parts), strict=True)

    def guided(
        self, t: Tensor, z: Tensor, weights: Tensor, interval: Interval
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """A function whose k-th call gives the predictions (G, M, out) of step t[k] and their weights (G, M, 1).

        Within `interval`, a share of the steps, all branches count; elsewhere the condition alone is computed.
        """
        start, stop = (round(share * len(t)) for share in interval)
        alone, one = z[:1], torch.ones_like(weights[:1])
        parts = ((t[:start], alone, one), (t[start:stop], z, weights), (t[stop:], alone, one))
        steps = chain.from_iterable(
            ((modulations, w[..., None]) for modulations in self.trajectory(part, branches))
            for part, branches, w in parts
            if len(part)
        )

        def predict(x: Tensor) -> tuple[Tensor, Tensor]:
            modulations, w = next(steps)
            return self.transform(x, modulations), w

        return predict
