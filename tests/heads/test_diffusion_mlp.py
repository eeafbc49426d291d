"""MAR's head against an independent float64 implementation of the published equations, written here in numpy.

Every parameter is drawn anew: as initialised, the head's output is zero and any formula would pass.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unifluid.heads.diffusion_mlp import DiffusionMLP

D, WIDTH, CONDITION, DEPTH = 16, 64, 24, 3
STEPS = np.array([0, 1, 2, 17, 250, 500, 751, 998, 999])


def randomised() -> DiffusionMLP:
    head = DiffusionMLP(D, CONDITION, depth=DEPTH, width=WIDTH)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in head.named_parameters():
            scale = p.shape[-1] ** -0.5 if p.ndim == 2 else 0.2
            p.copy_(scale * torch.randn(p.shape, generator=generator) + ("norm.weight" in name))
    return head


class Reference:
    """The published network and Gaussian diffusion, one token at a time, in the terms of DDPM and iDDPM."""

    def __init__(self, head: DiffusionMLP) -> None:
        self.p = {name: p.detach().double().numpy() for name, p in head.named_parameters()}
        cosine = [np.cos((i / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2 for i in range(1001)]
        self.beta = [min(1 - cosine[i + 1] / cosine[i], 0.999) for i in range(1000)]

    # -- network

    def linear(self, name, x):
        return self.p[f"net.{name}.weight"] @ x + self.p[f"net.{name}.bias"]

    @staticmethod
    def silu(x):
        return x / (1 + np.exp(-x))

    @staticmethod
    def normalise(x):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-6)

    def network(self, x, t, z):
        angles = [t * 10_000 ** (-k / 128) for k in range(128)]
        features = np.concatenate([np.cos(angles), np.sin(angles)])
        y = self.linear("time.2", self.silu(self.linear("time.0", features))) + self.linear("condition", z)
        h = self.linear("input", x)
        for i in range(DEPTH):
            shift, scale, gate = np.split(self.linear(f"blocks.{i}.modulation", self.silu(y)), 3)
            u = self.normalise(h) * self.p[f"net.blocks.{i}.norm.weight"] + self.p[f"net.blocks.{i}.norm.bias"]
            u = self.silu(self.linear(f"blocks.{i}.mlp.0", u * (1 + scale) + shift))
            h = h + gate * self.linear(f"blocks.{i}.mlp.2", u)
        shift, scale = np.split(self.linear("modulation", self.silu(y)), 2)
        out = self.linear("output", self.normalise(h) * (1 + scale) + shift)
        return out[:D], out[D:]

    # -- diffusion

    @staticmethod
    def step(betas, i, x_t, x0):
        """Mean of q(x_{i-1} | x_i, x0) (DDPM eq. 7) and the bounds of the learned variance."""
        bar = np.cumprod(1 - np.array(betas))
        before = np.append(1.0, bar)
        tilde = [betas[j] * (1 - before[j]) / (1 - bar[j]) for j in range(len(betas))]
        mean = np.sqrt(before[i]) * betas[i] * x0 + np.sqrt(1 - betas[i]) * (1 - before[i]) * x_t
        return mean / (1 - bar[i]), np.log(betas[i]), np.log(tilde[max(i, 1)]), bar[i]

    @staticmethod
    def cdf(x):
        return 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def loss(self, z, x, t, noise):
        bar = np.cumprod(1 - np.array(self.beta))[t]
        x_t = np.sqrt(bar) * x + np.sqrt(1 - bar) * noise
        eps, v = self.network(x_t, t, z)
        true_mean, log_beta, log_tilde, _ = self.step(self.beta, t, x_t, x)
        x0 = (x_t - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
        mean = self.step(self.beta, t, x_t, x0)[0]
        log_variance = (v + 1) / 2 * log_beta + (1 - (v + 1) / 2) * log_tilde
        if t > 0:
            ratio = np.exp(log_tilde - log_variance)
            nats = 0.5 * (-1 + log_variance - log_tilde + ratio + (true_mean - mean) ** 2 / np.exp(log_variance))
        else:
            deviation = np.exp(0.5 * log_variance)
            upper, lower = self.cdf((x - mean + 1 / 255) / deviation), self.cdf((x - mean - 1 / 255) / deviation)
            mass = np.where(x < -0.999, upper, np.where(x > 0.999, 1 - lower, upper - lower))
            nats = -np.log(np.maximum(mass, 1e-12))
        return np.mean((eps - noise) ** 2) + np.mean(nats) / np.log(2)

    def sample(self, z, noise, weights, temperature):
        """z (G, D), noise (S + 1, d), weights (G,)."""
        count = len(noise) - 1
        kept = [round(k * 999 / (count - 1)) for k in range(count)]
        bars = np.cumprod(1 - np.array(self.beta))[kept]
        betas = [1 - bar / before for bar, before in zip(bars, np.append(1.0, bars), strict=False)]
        x = noise[0]
        for k, i in enumerate(reversed(range(count))):
            outputs = [self.network(x, kept[i], branch) for branch in z]
            eps = sum(w * e for w, (e, _) in zip(weights, outputs, strict=True))
            x0 = (x - np.sqrt(1 - bars[i]) * eps) / np.sqrt(bars[i])
            mean, log_beta, log_tilde, _ = self.step(betas, i, x, x0)
            share = (outputs[0][1] + 1) / 2
            deviation = np.exp(0.5 * (share * log_beta + (1 - share) * log_tilde))
            x = mean + (deviation * noise[k + 1] * temperature if i > 0 else 0)
        return x


def test_times_are_uniform_over_all_steps():
    head = DiffusionMLP(2, 2, depth=1, width=8, train_steps=1000)
    u = (torch.arange(100_000) + 0.5) / 100_000
    assert head.times(u).bincount().tolist() == [100] * 1000
    assert head.times(torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, 999]


def draw(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(scope="module")
def losses():
    """Inputs z, x, t, noise with K = 2 copies and the reference's losses (K, M). Some of x lies beyond the bins."""
    z, x = draw(len(STEPS), CONDITION, seed=0), 0.8 * draw(len(STEPS), D, seed=1)
    t, noise = np.stack([STEPS, STEPS[::-1]]), draw(2, len(STEPS), D, seed=2)
    reference = Reference(randomised())
    want = [[reference.loss(z[m], x[m], t[k, m], noise[k, m]) for m in range(len(STEPS))] for k in range(2)]
    return (z, x, t, noise), np.array(want)


@pytest.fixture(scope="module")
def samples():
    """Inputs z, noise, weights with three branches and 100 steps, and the reference's samples (M, d)."""
    z, noise = draw(3, 4, CONDITION, seed=3), draw(101, 4, D, seed=4)
    weights = np.array([[3.0, -1.5, -0.5], [1.0, 0.0, 0.0], [2.0, 1.0, -2.0], [1.2, -0.2, 0.0]]).T
    reference = Reference(randomised())
    return (z, noise, weights), np.stack([reference.sample(z[:, m], noise[:, m], weights[:, m], 0.9) for m in range(4)])


def arguments(arrays: tuple[np.ndarray, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
    return [a.to(dtype) if a.is_floating_point() else a for a in tensors]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_loss(losses, dtype, tolerance):
    inputs, want = losses
    with torch.no_grad():
        got = randomised().to(dtype).loss(*arguments(inputs, dtype)).double().numpy()
    np.testing.assert_allclose(got, want, rtol=tolerance)
    assert got.mean() == pytest.approx(want.mean(), rel=1e-6)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_guided_sample(samples, dtype, tolerance):
    inputs, want = samples
    got = randomised().to(dtype).sample(*arguments(inputs, dtype), temperature=0.9).double().numpy()
    assert np.linalg.norm(got - want) <= tolerance * np.linalg.norm(want)
