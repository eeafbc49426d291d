"""Diffusion and flow matching as pure functions: schedules, paths, losses. No networks, no random draws.

Two ways from a token x to noise ε and back, both with x and ε of shape (..., d):

    Gaussian diffusion   x_t = √ᾱ_t x + √(1 - ᾱ_t) ε,  t = 0 … T - 1, noise last    DDPM 2006.11239, iDDPM 2102.09672
    flow matching        x_t = t x + (1 - t) ε,        t in [0, 1],   noise first   2209.03003, NextStep-1 2508.10711

Tables and time grids are float64 on the CPU and cast only when all is computed: in float32 they are off by 1e-3. The
maths runs in the dtype of what it is given. `samplers` goes the way back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import NamedTuple

import torch
from torch import Tensor


class Rates(NamedTuple):
    """The numbers of one diffusion step, or tensors of them that broadcast against (..., d)."""

    signal: float | Tensor  # √ᾱ
    sigma: float | Tensor  # √(1 - ᾱ)
    root_alpha: float | Tensor  # √α
    eps_scale: float | Tensor  # β / (√α √(1 - ᾱ)): how far a unit of ε moves the mean of the step (DDPM eq. 11)
    log_beta: float | Tensor  # log β, the upper bound of the step's log-variance
    log_posterior: float | Tensor  # log β̃, the lower bound (DDPM eq. 7)


@dataclass(frozen=True)
class Schedule:
    """The S steps of a Gaussian diffusion: what the network is told of each, and its rates."""

    timesteps: Tensor  # (S,) int64, increasing, of the schedule trained on
    alpha_bar: Tensor  # (S,) float64

    @property
    def table(self) -> Tensor:
        """All rates (6, S), float64. A step leads from ᾱ_i to ᾱ_(i-1), whatever was between them in training."""
        before = torch.cat([torch.ones_like(self.alpha_bar[:1]), self.alpha_bar[:-1]])
        alpha = self.alpha_bar / before
        beta, sigma = 1 - alpha, (1 - self.alpha_bar).sqrt()
        posterior = beta * (1 - before) / (1 - self.alpha_bar)
        posterior[0] = posterior[1]  # the last step into x has variance 0, whose logarithm is not finite
        eps_scale = beta / (alpha.sqrt() * sigma)
        return torch.stack([self.alpha_bar.sqrt(), sigma, alpha.sqrt(), eps_scale, beta.log(), posterior.log()])


def cosine_schedule(steps: int = 1000) -> Schedule:
    """The cosine schedule of iDDPM (eq. 17), β clipped at 0.999. Raises ValueError below two steps."""
    if steps < 2:
        raise ValueError(f"a diffusion needs at least 2 training steps, got {steps}")
    angle = (torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps + 0.008) / 1.008 * (math.pi / 2)
    f = angle.cos() ** 2
    beta = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return Schedule(torch.arange(steps, device="cpu"), (1 - beta).cumprod(0))


def respaced(schedule: Schedule, steps: int, shift: float = 1.0, start: float = 1.0) -> Schedule:
    """`steps` of the schedule's steps from its first to its last, evenly spaced (iDDPM section 4) or `shifted`.

    `start`: share of the schedule that counts, without the noisiest steps. Raises ValueError for fewer than two steps
    or more than count, and where so large a shift leaves some steps no place of their own.
    """
    trained = len(schedule.timesteps)
    total = round(start * trained)
    if not 2 <= steps <= total:
        begun = f", {total} of them from start {start}," if total < trained else ""
        raise ValueError(
            f"a diffusion head trained with {trained} steps{begun} samples in 2 to {total} steps, not {steps}"
        )
    if shift == 1:
        # Summed, not multiplied, and rounded half to even: exactly the steps that published checkpoints are sampled at.
        kept = [round(place) for place in accumulate(repeat((total - 1) / (steps - 1), steps - 1), initial=0.0)]
    else:
        noise_first = shifted(torch.linspace(0, 1, steps, dtype=torch.float64, device="cpu"), shift)
        kept = ((total - 1) * (1 - noise_first)).round().long().flip(0).tolist()
        if len(set(kept)) < steps:
            raise ValueError(f"time_shift {shift} is too large for {steps} of {total} steps: lower one of them")
    return Schedule(schedule.timesteps[kept], schedule.alpha_bar[kept])


def cast(table: Tensor, like: Tensor) -> Tensor:
    """A float64 table in the dtype and on the device of `like`; in this order, as not every device has float64."""
    return table.to(like.dtype).to(like.device, non_blocking=True)


class Grids:
    """Time grids on the devices that ask for them, each copied there once: no copy from the host can be part of a CUDA
    graph."""

    def __init__(self) -> None:
        self.copies: dict[tuple, Tensor] = {}

    def on(self, like: Tensor, grid: Tensor) -> Tensor:
        """`cast(grid, like)`, for a grid (S,)."""
        key = like.device, like.dtype, *grid.tolist()
        if key not in self.copies:
            with torch.inference_mode(False):  # tensors made in it could not be copied along with their owner
                self.copies[key] = cast(grid, like)
        return self.copies[key]


def rates_at(table: Tensor, t: Tensor, like: Tensor) -> Rates:
    """Rates of the steps t (...), each (..., 1), from a schedule's table (6, S)."""
    return Rates(*cast(table, like)[:, t, None])


def diffuse(x: Tensor, noise: Tensor, rates: Rates) -> Tensor:
    """x_t of the Gaussian diffusion (DDPM eq. 4)."""
    return rates.signal * x + rates.sigma * noise


def step_log_variance(v: Tensor, rates: Rates) -> Tensor:
    """Learned log-variance: v = 1 gives β, v = -1 gives β̃ (iDDPM eq. 15)."""
    return rates.log_posterior + (v + 1) / 2 * (rates.log_beta - rates.log_posterior)


def diffusion_loss(eps: Tensor, v: Tensor, x: Tensor, noise: Tensor, t: Tensor, rates: Rates) -> Tensor:
    """Predicted ε and v (..., d), token and noise (..., d), steps t (...) -> loss (...): MSE of ε plus bound in bits.

    The bound trains the variance only (iDDPM section 3.1), hence the detached error; both are means over channels.
    """
    error = eps - noise
    return (error.square() + bound(error.detach(), v, x, t, rates) / math.log(2)).mean(-1)


def bound(error: Tensor, v: Tensor, x: Tensor, t: Tensor, rates: Rates) -> Tensor:
    """Term t of the variational bound for each channel, in nats (DDPM eq. 5), from the error of ε (..., d).

    x_t cancels from the difference of the means of posterior and model, so it is not needed; at t = 0 the posterior's
    mean is x itself, and the term is the negative log-likelihood of x.
    """
    log_variance, shift = step_log_variance(v, rates), rates.eps_scale * error
    log_ratio = rates.log_posterior - log_variance
    divergence = 0.5 * (log_ratio.exp() + shift.square() * (-log_variance).exp() - 1 - log_ratio)
    return torch.where(t[..., None] == 0, discretised_nll(x, shift, 0.5 * log_variance), divergence)


def discretised_nll(x: Tensor, shift: Tensor, log_scale: Tensor) -> Tensor:
    """-log of a Gaussian's mass on the bin x ± 1/255, `shift` from its mean (DDPM eq. 13).

    Made for 8-bit pixels in [-1, 1]. Our tokens are not that; MAR keeps the term all the same, and so do we.
    """
    inverse = (-log_scale).exp()
    below_top, above_bottom = normal_cdf(inverse * (1 / 255 + shift)), normal_cdf(inverse * (1 / 255 - shift))
    # Of the two equal differences the one between small numbers, which float32 can tell apart.
    inside = torch.minimum(below_top, above_bottom) - normal_cdf(-inverse * (1 / 255 + shift.abs()))
    mass = torch.where(x < -0.999, below_top, torch.where(x > 0.999, above_bottom, inside))
    return -mass.clamp_min(1e-12).log()


def normal_cdf(x: Tensor) -> Tensor:
    """Φ(x), in the approximation (1 + tanh u) / 2 of DDPM's code; the logistic of 2 u, exact in the lower tail."""
    return torch.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t of flow matching, for t that broadcasts against (..., d)."""
    return noise + t * (x - noise)


def velocity_from_x(x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """v = (x - x_t) / (1 - t), the denominator held at 0.05 or more (JiT, 2511.13720)."""
    return (x - x_t) / (1 - t).clamp_min(0.05)


def shifted(times: Tensor, shift: float) -> Tensor:
    """Time grid moved towards noise for shift > 1 (SD3, 2403.03206, eq. 23, with our t = 1 - σ)."""
    return times / (shift - (shift - 1) * times)
