"""MAR's diffusion head (2406.11838): ε-prediction with learned variance, 1000 steps trained, about 100 sampled."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from unifluid import diffusion, samplers
from unifluid.heads.mlp import AdaLNMLP
from unifluid.interfaces import ImageHead, Interval

SAMPLERS = {"ancestral": samplers.sample_diffusion, "dpm++": samplers.sample_dpm}


class DiffusionMLP(ImageHead):
    """Published sizes, depth × width: 6×1024, 8×1280, 12×1536. Times are the integer steps 0 … train_steps - 1.

    The first of 100 sampling steps divides by √α = 1/316 and x is never clipped: until ε is predicted to a thousandth
    at the last timesteps, which takes long training, all samples are huge. A `start` of .99 leaves those out; there a
    token has a sixtieth of the noise's size, and no step of 100 then divides by less than a half.

    Args:
        sampler: "ancestral" (MAR; temperature scales the step noise) or "dpm++" (DPM-Solver++ 2M, for fewer steps;
            temperature scales the initial noise).
        time_shift: above 1 spends more of the sampling steps near noise.
        start: share of the noise schedule at which sampling begins: MAR's 1, or .99 for models trained for less.
    """

    drawing = ("sampler", "time_shift", "start")

    def __init__(
        self,
        token_dim: int,
        condition_dim: int,
        depth: int = 6,
        width: int = 1024,
        train_steps: int = 1000,
        sampler: Literal["ancestral", "dpm++"] = "ancestral",
        time_shift: float = 1.0,
        start: float = 1.0,
    ) -> None:
        super().__init__()
        samplers.check_choice(sampler, SAMPLERS, time_shift)
        if not 0 < start <= 1:
            raise ValueError(f"start must be a share of the noise schedule, above 0 and up to 1, got {start}")
        self.sampler, self.time_shift, self.start = sampler, time_shift, start
        self.token_dim, self.condition_dim = token_dim, condition_dim
        self.net = AdaLNMLP(token_dim, 2 * token_dim, condition_dim, depth, width)
        self.grids = diffusion.Grids()
        self.schedule = diffusion.cosine_schedule(train_steps)
        self.table = self.schedule.table

    def layers(self) -> list[nn.Module]:
        return [self.net]

    def times(self, u: Tensor) -> Tensor:
        """Uniform draws (...) -> steps (...), int64, uniform."""
        steps = len(self.schedule.timesteps)
        return (u * steps).long().clamp(max=steps - 1)

    def loss(self, z: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """MSE of ε plus the variational bound in bits: (K, M). The dtype of `noise` is that of the maths."""
        rates = diffusion.rates_at(self.table, t, noise)
        x = x.to(noise.dtype)
        out = self.net(diffusion.diffuse(x, noise, rates), t.to(noise.dtype), z)
        eps, v = out.to(noise.dtype).chunk(2, -1)
        return diffusion.diffusion_loss(eps, v, x, noise, t, rates)

    @torch.no_grad()
    def sample(
        self, z: Tensor, noise: Tensor, weights: Tensor, temperature: float = 1.0, interval: Interval = (0.0, 1.0)
    ) -> Tensor:
        """Only ε is guided: the variance is that of the condition, branch 0."""
        schedule = self.respaced(len(noise) - 1)
        guided = self.net.guided(self.grids.on(noise, schedule.timesteps.flip(0)), z, weights, interval)

        def predict(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
            out, w = guided(x)
            eps, v = out.to(noise.dtype).chunk(2, -1)
            return (w * eps).sum(0), v[0]

        return SAMPLERS[self.sampler](predict, noise, schedule, temperature)

    def check_steps(self, steps: int) -> None:
        self.respaced(steps)

    def respaced(self, steps: int) -> diffusion.Schedule:
        return diffusion.respaced(self.schedule, steps, self.time_shift, self.start)
