"""The flow head against its definition written out, and its sampler against plain loops over the network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from unifluid.heads.flow_mlp import FlowMLP


def randomised(**options) -> FlowMLP:
    torch.manual_seed(0)
    head = FlowMLP(4, 8, depth=2, width=32, **options).double()
    for p in head.parameters():
        nn.init.normal_(p, std=0.2)
    return head


def double(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_times_are_logit_normal():
    head = FlowMLP(4, 8, depth=1, width=8, time_mean=-0.4, time_std=1.5)
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    t = head.times(u)
    logit = torch.logit(t.double())
    assert logit.mean().item() == pytest.approx(-0.4, abs=0.02)
    assert logit.std().item() == pytest.approx(1.5, abs=0.02)
    assert head.times(torch.tensor([0.5])).item() == pytest.approx(1 / (1 + math.exp(0.4)))
    assert head.times(torch.tensor([0.0])).item() == 0.0


@pytest.mark.parametrize("prediction", ["v", "x"])
def test_loss(prediction):
    head = randomised(prediction=prediction)
    z, x, noise, t = double(5, 8), double(5, 4), double(3, 5, 4), torch.rand(3, 5, dtype=torch.float64)
    t[0, 0] = 0.999
    loss = head.loss(z, x, t, noise)
    assert loss.shape == (3, 5)
    for k in range(3):
        for m in range(5):
            x_t = t[k, m] * x[m] + (1 - t[k, m]) * noise[k, m]
            out = head.net(x_t[None, None], 1000 * t[k : k + 1, m : m + 1], z[m : m + 1])[0, 0]
            error = out - (x[m] - noise[k, m]) if prediction == "v" else (out - x[m]) / max(1 - t[k, m].item(), 0.05)
            assert loss[k, m].item() == pytest.approx((error**2).mean().item(), rel=1e-9)


@pytest.mark.parametrize("prediction", ["v", "x"])
@pytest.mark.parametrize("sampler", ["ode", "sde"])
@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_sample_is_the_plain_loop(sampler, prediction, shift):
    head = randomised(sampler=sampler, prediction=prediction, time_shift=shift)
    steps, z, noise, temperature = 6, double(3, 5, 8), double(7, 5, 4), 0.8
    weights = torch.tensor([2.0, -0.7, -0.3], dtype=torch.float64)[:, None].expand(3, 5)
    grid = [k / steps for k in range(steps + 1)] if sampler == "ode" else [k / (steps - 1) for k in range(steps)]
    grid = [t / (t + shift * (1 - t)) for t in grid]
    grid = grid if sampler == "ode" else [0.96 * t for t in grid] + [1.0]

    def velocity(x: Tensor, t: float) -> Tensor:
        time = torch.full((1, 5), 1000 * t, dtype=torch.float64)
        out = sum(w[:, None] * head.net(x[None], time, branch)[0] for w, branch in zip(weights, z, strict=True))
        return out if prediction == "v" else (out - x) / max(1 - t, 0.05)

    with torch.no_grad():
        x = noise[0] * (temperature if sampler == "ode" else 1)
        for k, (t, after) in enumerate(zip(grid, grid[1:], strict=False)):
            v = velocity(x, t)
            if sampler == "ode" or k == steps - 1:
                x = x + (after - t) * v
            else:
                score = (t * v - x) / (1 - t)
                spread = math.sqrt(2 * (1 - t) * (after - t))
                x = x + (after - t) * (v + (1 - t) * score) + temperature * spread * noise[k + 1]
    torch.testing.assert_close(head.sample(z, noise, weights, temperature), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", ["ode", "sde"])
def test_learned_samples_have_mean_and_spread_of_the_data(sampler):
    """Tokens N(z, 0.5²): the only test that trains, with its own draws, and then looks at samples."""
    torch.manual_seed(0)
    head, g = FlowMLP(2, 2, depth=1, width=64, sampler=sampler), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 300)
        z = torch.randn(128, 2, generator=g)
        x, noise = z + 0.5 * torch.randn(128, 2, generator=g), torch.randn(1, 128, 2, generator=g)
        loss = head.loss(z, x, head.times(torch.rand(1, 128, generator=g)), noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    z = torch.tensor([1.0, -1.5]).expand(1, 2000, 2)
    x = head.sample(z, torch.randn(31, 2000, 2, generator=g), torch.ones(1, 2000))
    torch.testing.assert_close(x.mean(0), z[0, 0], rtol=0, atol=0.1)
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.5), rtol=0, atol=0.1)


def test_options_are_checked():
    with pytest.raises(ValueError, match="sampler must be one of ode, midpoint, heun, sde, got 'euler'"):
        FlowMLP(4, 8, sampler="euler")
    with pytest.raises(ValueError, match="prediction must be v or x, got 'eps'"):
        FlowMLP(4, 8, prediction="eps")
    with pytest.raises(ValueError, match="time_shift must be positive and finite, got 0"):
        FlowMLP(4, 8, time_shift=0)
