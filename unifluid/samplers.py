"""From noise to tokens: the samplers of both processes of `diffusion`, as pure functions.

Each takes `predict(x, k)`, the (guided) network at its k-th evaluation, and noise (S + 1, ..., d): the initial noise,
then that of each of S steps. Steps count evaluations of the network, so that samplers of as many steps cost the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from itertools import pairwise

import torch
from torch import Tensor

from unifluid.diffusion import Rates, Schedule, shifted, step_log_variance


def check_choice(sampler: str, known: Collection[str], time_shift: float) -> None:
    """What a head is told of its sampling. Raises ValueError naming the argument that is wrong."""
    if sampler not in known:
        raise ValueError(f"sampler must be one of {', '.join(known)}, got {sampler!r}")
    if not 0 < time_shift < math.inf:
        raise ValueError(f"time_shift must be positive and finite, got {time_shift}")


def sample_diffusion(
    predict: Callable[[Tensor, int], tuple[Tensor, Tensor]], noise: Tensor, schedule: Schedule, temperature: float = 1.0
) -> Tensor:
    """Ancestral sampling (DDPM algorithm 2), x never clipped, the mean returned at t = 0.

    `predict(x, k)` gives ε and v (..., d) at the k-th step, which is `schedule.timesteps[S - 1 - k]`. `temperature`
    multiplies the step noise, not the initial noise.
    """
    x = noise[0]
    steps = [Rates(*column) for column in schedule.table.T.flip(0).tolist()]
    for k, rates in enumerate(steps):
        eps, v = predict(x, k)
        x = x / rates.root_alpha - rates.eps_scale * eps
        if k < len(steps) - 1:
            x = x + temperature * (0.5 * step_log_variance(v, rates)).exp() * noise[k + 1]
    return x


def sample_dpm(
    predict: Callable[[Tensor, int], tuple[Tensor, Tensor]], noise: Tensor, schedule: Schedule, temperature: float = 1.0
) -> Tensor:
    """DPM-Solver++ (2M) (2211.01095, algorithm 2): deterministic, of second order in λ = log(√ᾱ / σ); the last step,
    into ᾱ = 1, gives the token itself.

    `predict` as in `sample_diffusion`; v is not used, so `temperature` multiplies the initial noise.
    """
    x, before = temperature * noise[0], None
    signal, sigma = schedule.alpha_bar.sqrt().flip(0), (1 - schedule.alpha_bar).sqrt().flip(0)
    levels = (signal / sigma).log().tolist()
    signal, sigma = signal.tolist(), sigma.tolist()
    for k in range(len(levels)):
        eps, _ = predict(x, k)
        token = (x - sigma[k] * eps) / signal[k]
        if k + 1 == len(levels):
            break
        step = levels[k + 1] - levels[k]
        guess = token
        if before is not None:
            ratio = step / (2 * (levels[k] - levels[k - 1]))
            guess = (1 + ratio) * token - ratio * before
        x = sigma[k + 1] / sigma[k] * x - signal[k + 1] * math.expm1(-step) * guess
        before = token
    return token


def ode_times(steps: int, shift: float = 1.0) -> Tensor:
    """Times of `sample_ode`, S + 1 from 0 to 1, float64."""
    return shifted(torch.linspace(0, 1, steps + 1, dtype=torch.float64, device="cpu"), shift)


def sde_times(steps: int, shift: float = 1.0) -> Tensor:
    """Times of `sample_sde`, S from 0 to 0.96 and then 1, float64."""
    return torch.cat([0.96 * ode_times(steps - 1, shift), torch.ones(1, dtype=torch.float64, device="cpu")])


def sample_ode(
    predict: Callable[[Tensor, int], Tensor], noise: Tensor, times: Tensor, temperature: float = 1.0
) -> Tensor:
    """Euler steps of dx = v dt. `predict(x, k)` gives v at times[k].

    Step noise is not used, so `temperature` multiplies the initial noise.
    """
    x = temperature * noise[0]
    for k, (t, after) in enumerate(pairwise(times.tolist())):
        x = x + (after - t) * predict(x, k)
    return x


def sample_sde(
    predict: Callable[[Tensor, int], Tensor], noise: Tensor, times: Tensor, temperature: float = 1.0
) -> Tensor:
    """Euler-Maruyama steps of dx = (v + (1 - t) score) dt + √(2 (1 - t)) dw, then one plain step (NextStep-1).

    Same marginals as the ODE; (1 - t) score = -ε = t v - x. `temperature` multiplies the step noise only.
    """
    x, stops = noise[0], times.tolist()
    for k, (t, after) in enumerate(pairwise(stops[:-1])):
        v, dt = predict(x, k), after - t
        x = x + dt * (v + (t * v - x)) + temperature * math.sqrt(2 * (1 - t) * dt) * noise[k + 1]
    return x + (stops[-1] - stops[-2]) * predict(x, len(stops) - 2)


def second_order_times(steps: int, shift: float = 1.0, inner: float = 0.5) -> Tensor:
    """Times of the evaluations of `sample_second_order`, then 1: (S + 1,), float64.

    Each interval is evaluated at its start and at `inner` of its length, 1/2 for the midpoint method and 1 for Heun's;
    if `steps` is odd the last is evaluated at its start alone.
    """
    grid = ode_times((steps + 1) // 2, shift)
    inside = grid[:-1] + inner * grid.diff()
    evaluations = torch.stack([grid[:-1], inside], dim=1).flatten()[:steps]
    return torch.cat([evaluations, grid[-1:]])


def sample_second_order(
    predict: Callable[[Tensor, int], Tensor], noise: Tensor, times: Tensor, temperature: float = 1.0
) -> Tensor:
    """Second-order Runge-Kutta steps of dx = v dt at `second_order_times`; a last odd one is Euler's.

    Step noise is not used, so `temperature` multiplies the initial noise.
    """
    x, stops, steps = temperature * noise[0], times.tolist(), len(times) - 1
    for k in range(0, steps - 1, 2):
        # Where the second evaluation is the interval's end, that is also the next one's start.
        t, inside, after = stops[k], stops[k + 1], stops[k + 2]
        v = predict(x, k)
        inner = predict(x + (inside - t) * v, k + 1)
        share = (after - t) / (2 * (inside - t))
        x = x + (after - t) * ((1 - share) * v + share * inner)
    if steps % 2:
        x = x + (stops[-1] - stops[-2]) * predict(x, steps - 1)
    return x
