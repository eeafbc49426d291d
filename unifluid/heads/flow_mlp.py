"""Flow-matching head: the network of the diffusion head on straight paths, for 20 to 50 steps instead of 100."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from unifluid import diffusion, samplers
from unifluid.heads.mlp import AdaLNMLP
from unifluid.interfaces import ImageHead, Interval

SAMPLERS = {
    "ode": (samplers.ode_times, samplers.sample_ode),
    "midpoint": (samplers.second_order_times, samplers.sample_second_order),
    "heun": (partial(samplers.second_order_times, inner=1.0), samplers.sample_second_order),
    "sde": (samplers.sde_times, samplers.sample_sde),
}
TIME_UNIT = 1000  # the sinusoids are made for steps 0 … 999


class FlowMLP(ImageHead):
    """x_t = t x + (1 - t) ε, trained on the velocity x - ε at logit-normal times (SD3, 2403.03206, section 3.1).

    Args:
        time_mean, time_std: of the normal variable whose sigmoid is t.
        sampler: "ode" (Euler), "midpoint" or "heun" (second order: two evaluations, which count as two steps), where
            temperature scales the initial noise; or "sde" (NextStep-1), where it scales the step noise.
        time_shift: above 1 spends more of the sampling steps near noise.
        prediction: what the network gives, "v" or, better for tokens of many channels, "x" (JiT, 2511.13720).
    """

    drawing = ("sampler", "time_shift")

    def __init__(
        self,
        token_dim: int,
        condition_dim: int,
        depth: int = 3,
        width: int = 256,
        time_mean: float = 0.0,
        time_std: float = 1.0,
        sampler: Literal["ode", "midpoint", "heun", "sde"] = "ode",
        time_shift: float = 1.0,
        prediction: Literal["v", "x"] = "v",
    ) -> None:
        super().__init__()
        samplers.check_choice(sampler, SAMPLERS, time_shift)
        if prediction not in ("v", "x"):
            raise ValueError(f"prediction must be v or x, got {prediction!r}")
        self.token_dim, self.condition_dim = token_dim, condition_dim
        self.time_mean, self.time_std = time_mean, time_std
        self.sampler, self.time_shift, self.prediction = sampler, time_shift, prediction
        self.grids = diffusion.Grids()
        self.net = AdaLNMLP(token_dim, token_dim, condition_dim, depth, width)

    def layers(self) -> list[nn.Module]:
        return [self.net]

    def times(self, u: Tensor) -> Tensor:
        """Uniform draws (...) -> logit-normal times (...) in [0, 1]."""
        return torch.sigmoid(self.time_mean + self.time_std * torch.special.ndtri(u))

    def velocity(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return out if self.prediction == "v" else diffusion.velocity_from_x(out, x_t, t)

    def loss(self, z: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Mean square error of the velocity: (K, M). The dtype of `noise` is that of the maths."""
        x, time = x.to(noise.dtype), t.to(noise.dtype)[..., None]
        x_t = diffusion.interpolate(x, noise, time)
        out = self.net(x_t, TIME_UNIT * time[..., 0], z).to(noise.dtype)
        ideal = x if self.prediction == "x" else x - noise
        return (self.velocity(out, x_t, time) - self.velocity(ideal, x_t, time)).square().mean(-1)

    @torch.no_grad()
    def sample(
        self, z: Tensor, noise: Tensor, weights: Tensor, temperature: float = 1.0, interval: Interval = (0.0, 1.0)
    ) -> Tensor:
        """The guided velocity is the weighted sum of the branches'."""
        make_times, sampler = SAMPLERS[self.sampler]
        times = make_times(len(noise) - 1, self.time_shift)
        t = self.grids.on(noise, times[:-1])
        guided = self.net.guided(TIME_UNIT * t, z, weights, interval)

        def predict(x: Tensor, k: int) -> Tensor:
            out, w = guided(x)
            return self.velocity((w * out.to(noise.dtype)).sum(0), x, t[k])

        return sampler(predict, noise, times, temperature)
