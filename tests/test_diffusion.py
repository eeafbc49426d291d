"""The maths of the heads against closed forms; samplers on Gaussian data, where the best prediction is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from unifluid import diffusion, samplers
from unifluid.diffusion import Rates

T = 1000


def published_alpha_bar() -> np.ndarray:
    """ᾱ of the cosine schedule straight from iDDPM eq. 17, which needs no product of β except where β is clipped."""
    f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.append(f[1:T] / f[0], f[T - 1] / f[0] * (1 - 0.999))


def test_cosine_schedule_is_the_published_one():
    schedule = diffusion.cosine_schedule(T)
    np.testing.assert_allclose(schedule.alpha_bar.numpy(), published_alpha_bar(), rtol=1e-10)
    assert schedule.timesteps.tolist() == list(range(T))
    assert schedule.alpha_bar[-1].item() == pytest.approx(2.4e-9, rel=0.02)


def test_rates_are_ddpms_posterior():
    """Eq. 6 and 7 of DDPM from the definitions: the Gaussian proportional to q(x_t | x_{t-1}) q(x_{t-1} | x)."""
    schedule = diffusion.cosine_schedule(T)
    rates = Rates(*schedule.table)
    bar = published_alpha_bar()
    for t in (1, 2, 500, 998, 999):
        alpha = bar[t] / bar[t - 1]
        precision = alpha / (1 - alpha) + 1 / (1 - bar[t - 1])
        x, x_t = 0.7, -1.3
        mean = (math.sqrt(alpha) / (1 - alpha) * x_t + math.sqrt(bar[t - 1]) / (1 - bar[t - 1]) * x) / precision
        eps = (x_t - math.sqrt(bar[t]) * x) / math.sqrt(1 - bar[t])
        assert x_t / rates.root_alpha[t] - rates.eps_scale[t] * eps == pytest.approx(mean, rel=1e-6)
        assert rates.log_posterior[t].item() == pytest.approx(-math.log(precision), rel=1e-8)
        assert rates.log_beta[t].item() == pytest.approx(math.log(1 - alpha), rel=1e-8)
    assert rates.log_posterior[0] == rates.log_posterior[1]


def test_respacing():
    schedule = diffusion.respaced(diffusion.cosine_schedule(T), 100)
    assert schedule.timesteps[:9].tolist() == [0, 10, 20, 30, 40, 50, 61, 71, 81]
    assert schedule.timesteps[-3:].tolist() == [979, 989, 999]
    assert schedule.timesteps.tolist() == [round(k * 999 / 99) for k in range(100)]
    beta = Rates(*schedule.table).log_beta.exp()
    assert beta[-1].item() == pytest.approx(0.99999, abs=2e-6)  # not clipped at 0.999 again
    bar = published_alpha_bar()
    assert beta[50].item() == pytest.approx(1 - bar[505] / bar[494], rel=1e-8)
    assert diffusion.respaced(schedule, 100).timesteps.equal(schedule.timesteps)
    assert diffusion.respaced(diffusion.cosine_schedule(T), 3).timesteps.tolist() == [
        0,
        500,
        999,
    ]  # 499.5: half to even
    with pytest.raises(ValueError, match="at least 2 training steps, got 1"):
        diffusion.cosine_schedule(1)
    for steps in (1, 1001):
        with pytest.raises(ValueError, match="2 to 1000 steps"):
            diffusion.respaced(diffusion.cosine_schedule(T), steps)


def test_diffuse_keeps_unit_variance():
    rates = diffusion.rates_at(diffusion.cosine_schedule(T).table, torch.arange(T), torch.zeros(1))
    assert rates.signal.shape == (T, 1) and rates.signal.dtype == torch.float32
    torch.testing.assert_close(rates.signal**2 + rates.sigma**2, torch.ones(T, 1))
    x, noise = torch.tensor([2.0]), torch.tensor([-3.0])
    torch.testing.assert_close(diffusion.diffuse(x, noise, rates), 2 * rates.signal - 3 * rates.sigma)


def test_bound_is_the_divergence_of_posterior_and_model():
    torch.manual_seed(0)
    schedule = diffusion.cosine_schedule(T)
    t = torch.tensor([1, 2, 17, 500, 998, 999])
    x, noise, eps, v = torch.randn(4, len(t), 5, dtype=torch.float64)
    rates = diffusion.rates_at(schedule.table, t, x)
    got = diffusion.bound(eps - noise, v, x, t, rates)
    bar = torch.from_numpy(published_alpha_bar())[:, None]
    now, before = bar[t], bar[t - 1]
    alpha = now / before
    beta_tilde = (1 - alpha) * (1 - before) / (1 - now)
    x_t = now.sqrt() * x + (1 - now).sqrt() * noise
    x_hat = (x_t - (1 - now).sqrt() * eps) / now.sqrt()

    def posterior_mean(x0: Tensor) -> Tensor:
        return (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * x_t) / (1 - now)

    share = (v + 1) / 2
    variance = (1 - alpha) ** share * beta_tilde ** (1 - share)
    want = kl_divergence(
        Normal(posterior_mean(x), beta_tilde.sqrt().expand_as(x)), Normal(posterior_mean(x_hat), variance.sqrt())
    )
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_bound_at_zero_is_the_likelihood_of_the_bin():
    """Against the true Gaussian mass: the tanh approximation is good to 2e-4; the edges take the whole tail."""
    schedule = diffusion.cosine_schedule(T)
    x = torch.tensor([[-1.0, -0.998, 0.3, 0.9995, 1.2]], dtype=torch.float64)
    error = torch.tensor([[0.4, -0.2, 0.1, 0.6, -0.5]], dtype=torch.float64)
    v = torch.tensor([[1.0, -1.0, 0.0, 3.0, -2.0]], dtype=torch.float64)
    t = torch.zeros(1, dtype=torch.long)
    got = diffusion.bound(error, v, x, t, diffusion.rates_at(schedule.table, t, x))
    bar = published_alpha_bar()
    mean = x - math.sqrt((1 - bar[0]) / bar[0]) * error
    beta, beta_tilde = 1 - bar[0], (1 - bar[1] / bar[0]) * (1 - bar[0]) / (1 - bar[1])
    model = Normal(mean, (beta ** ((v + 1) / 2) * beta_tilde ** ((1 - v) / 2)).sqrt())
    mass = model.cdf(x + 1 / 255) - model.cdf(x - 1 / 255)
    mass = torch.where(x < -0.999, model.cdf(x + 1 / 255), torch.where(x > 0.999, 1 - model.cdf(x - 1 / 255), mass))
    torch.testing.assert_close((-got).exp(), mass, rtol=0, atol=4e-4)
    far = diffusion.discretised_nll(x, torch.full_like(x, 5.0), torch.full_like(x, -5.0))
    torch.testing.assert_close(far[0, 1:3], torch.full((2,), -math.log(1e-12), dtype=torch.float64))  # clamped


def test_loss_is_mse_plus_bits_and_the_bound_leaves_eps_alone():
    torch.manual_seed(0)
    t = torch.tensor([0, 3, 999])
    x, noise, eps, v = torch.randn(4, 3, 5, dtype=torch.float64)
    eps, v = eps.requires_grad_(), v.requires_grad_()
    rates = diffusion.rates_at(diffusion.cosine_schedule(T).table, t, x)
    loss = diffusion.diffusion_loss(eps, v, x, noise, t, rates)
    bits = diffusion.bound(eps - noise, v, x, t, rates) * math.log2(math.e)
    torch.testing.assert_close(loss, ((eps - noise) ** 2).mean(-1) + bits.mean(-1))
    loss.sum().backward()
    torch.testing.assert_close(eps.grad, 2 / 5 * (eps - noise).detach())
    assert v.grad.abs().min() > 0


# -- samplers on Gaussian data N(m, s²): the best predictions are affine in x, so a sampler is an affine map of its
#    noise, and the mean and variance it gives are read off exactly, without drawing a single number.

MEANS = torch.tensor([0.0, 0.5, -1.0, 2.0], dtype=torch.float64)
STDS = torch.tensor([1.0, 0.3, 0.05, 1.6], dtype=torch.float64)


def unit_noise(steps: int) -> Tensor:
    """Noise (S + 1, S + 2, d): row 0 all zero, row i with 1 as its i-th noise."""
    return torch.cat([torch.zeros(steps + 1, 1), torch.eye(steps + 1)], 1).double()[..., None].repeat(1, 1, len(MEANS))


def mean_and_std(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Of the sampler whose outputs for `unit_noise` these are."""
    return samples[0], (samples[1:] - samples[0]).square().sum(0).sqrt()


def gaussian_diffusion(schedule: diffusion.Schedule, temperature: float = 1.0) -> Tensor:
    """Samples with the best ε and the true variance of q(x_{t-1} | x_t)."""
    bars = schedule.alpha_bar.tolist()

    def predict(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        bar = bars[len(bars) - 1 - k]
        before = bars[len(bars) - 2 - k] if k < len(bars) - 1 else 1.0
        total = bar * STDS**2 + 1 - bar
        eps = math.sqrt(1 - bar) * (x - math.sqrt(bar) * MEANS) / total
        beta, beta_tilde = 1 - bar / before, (1 - bar / before) * (1 - before) / (1 - bar)
        variance = beta_tilde + before * (beta / (1 - bar)) ** 2 * STDS**2 * (1 - bar) / total
        if before == 1.0:
            return eps, torch.zeros_like(x)  # the step whose mean is returned: its variance is not used
        return eps, 2 * (variance.log() - math.log(beta_tilde)) / math.log(beta / beta_tilde) - 1 + 0 * x

    return samplers.sample_diffusion(predict, unit_noise(len(bars)), schedule, temperature)


@pytest.mark.parametrize("steps", [1000, 100, 10])
def test_ancestral_sampling_of_gaussian_data(steps):
    mean, std = mean_and_std(gaussian_diffusion(diffusion.respaced(diffusion.cosine_schedule(T), steps)))
    torch.testing.assert_close(mean, MEANS, rtol=0, atol=1e-3)
    # Only the variance of the last step is missing, as its mean is returned: at most 1 - ᾱ_0.
    missing = STDS.square() - std.square()
    assert (missing > 0).all() and (missing < 5e-5).all()


@pytest.mark.parametrize("start", [0.99, 0.98])
def test_a_little_less_noise_to_start_from_changes_little(start):
    """What is left out is the noise's last percent, where the means are small: √ᾱ is .016 there, .031 at two."""
    schedule = diffusion.respaced(diffusion.cosine_schedule(T), 100, start=start)
    assert schedule.timesteps[0] == 0 and schedule.timesteps[-1] == start * T - 1
    mean, std = mean_and_std(gaussian_diffusion(schedule))
    missing = schedule.alpha_bar[-1].sqrt() * MEANS
    assert ((mean - MEANS).abs() <= missing.abs() + 1e-3).all() and (std - STDS).abs().max() < 0.02


def test_an_error_of_the_first_steps_is_not_magnified_from_a_start_below_the_last():
    """A network is right to a hundredth at most after short training: from the last step that is 3 in the token."""
    spread = {}
    for start in (1.0, 0.99):
        schedule = diffusion.respaced(diffusion.cosine_schedule(T), 100, start=start)
        bars = schedule.alpha_bar.flip(0).tolist()

        def predict(x: Tensor, k: int, bars: list[float] = bars) -> tuple[Tensor, Tensor]:
            """Of data that are all 0, off by a hundredth at high noise."""
            return x / math.sqrt(1 - bars[k]) + 0.01 * (bars[k] < 1e-3), torch.full_like(x, -1)

        # Half a way: what the rest makes of it is the network's business.
        x = torch.zeros(1, dtype=torch.float64)
        for k, rates in enumerate(Rates(*column) for column in schedule.table.T.flip(0)[:3].tolist()):
            x = x / rates.root_alpha - rates.eps_scale * predict(x, k)[0]
        spread[start] = x.abs().item()
    assert spread[1.0] > 1 and spread[0.99] < 0.1, spread


def test_ancestral_temperature_scales_the_step_noise_only():
    schedule = diffusion.respaced(diffusion.cosine_schedule(T), 20)
    plain, cool = gaussian_diffusion(schedule), gaussian_diffusion(schedule, 0.5)
    torch.testing.assert_close(cool[:2], plain[:2])  # no noise; initial noise
    torch.testing.assert_close(cool[2:-1] - cool[0], 0.5 * (plain[2:-1] - plain[0]))
    torch.testing.assert_close(plain[-1], plain[0])  # no noise at the last step


def toy_eps(x: Tensor, alpha_bar: float) -> Tensor:
    """Some smooth ε of x."""
    return math.sqrt(1 - alpha_bar) * (x - 0.3) / (0.5 * alpha_bar + 1 - alpha_bar)


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_dpm_solver_is_that_of_diffusers(steps):
    from diffusers import DPMSolverMultistepScheduler

    whole = diffusion.cosine_schedule(T)
    betas = 1 - whole.alpha_bar / torch.cat([torch.ones(1), whole.alpha_bar[:-1]])
    reference = DPMSolverMultistepScheduler(
        trained_betas=betas.numpy(), algorithm_type="dpmsolver++", solver_order=2, lower_order_final=False,
        final_sigmas_type="zero",
    )  # fmt: skip
    schedule = diffusion.respaced(whole, steps)
    reference.set_timesteps(timesteps=schedule.timesteps.flip(0).tolist())
    bars, start = schedule.alpha_bar.flip(0).tolist(), torch.randn(50, 3, dtype=torch.float64)
    x = start
    for t, bar in zip(reference.timesteps, bars, strict=True):
        x = reference.step(toy_eps(x, bar), t, x).prev_sample
    noise = start[None].expand(steps + 1, -1, -1)
    made = samplers.sample_dpm(lambda x, k: (toy_eps(x, bars[k]), x), noise, schedule)
    torch.testing.assert_close(made, x.double(), rtol=1e-3, atol=1e-3)  # its tables are float32


def test_a_shifted_schedule_has_more_steps_near_noise():
    whole = diffusion.cosine_schedule(T)
    shifted = diffusion.respaced(whole, 11, 3.0).timesteps
    assert shifted.tolist() == sorted(shifted.tolist()) and shifted[0] == 0 and shifted[-1] == T - 1
    assert (shifted > T // 2).sum() > (diffusion.respaced(whole, 11).timesteps > T // 2).sum() + 1
    with pytest.raises(ValueError, match="time_shift 3.0 is too large for 900 of 1000 steps"):
        diffusion.respaced(whole, 900, 3.0)


def gaussian_velocity(x: Tensor, t: float) -> Tensor:
    """E[x - ε | x_t]."""
    total = (t * STDS) ** 2 + (1 - t) ** 2
    return MEANS + (t * STDS**2 - (1 - t)) / total * (x - t * MEANS)


def flow_samples(sampler, times: Tensor, temperature: float = 1.0) -> Tensor:
    grid = times.tolist()
    return sampler(lambda x, k: gaussian_velocity(x, grid[k]), unit_noise(len(grid) - 1), times, temperature)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ode_of_gaussian_data(shift):
    errors = []
    for steps in (400, 800):
        mean, std = mean_and_std(flow_samples(samplers.sample_ode, samplers.ode_times(steps, shift)))
        torch.testing.assert_close(mean, MEANS, rtol=0, atol=5e-3)
        torch.testing.assert_close(std, STDS, rtol=0, atol=2e-2)
        errors.append((std - STDS).abs())
    assert (errors[1] <= 0.55 * errors[0] + 1e-9).all()  # first order in the step


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sde_of_gaussian_data(shift):
    # The plain step from 0.96 returns E[x | x_t], so a little of the variance is missing: known, too.
    t = 0.96
    want = STDS * (t * STDS / ((t * STDS) ** 2 + (1 - t) ** 2).sqrt())
    errors = []
    for steps in (400, 800):
        mean, std = mean_and_std(flow_samples(samplers.sample_sde, samplers.sde_times(steps, shift)))
        torch.testing.assert_close(mean, MEANS, rtol=0, atol=1e-2)
        torch.testing.assert_close(std, want, rtol=0, atol=2e-2)
        errors.append((std - want).abs())
    assert (errors[1] <= 0.6 * errors[0] + 1e-9).all()


@pytest.mark.parametrize("inner", [0.5, 1.0])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_second_order_of_gaussian_data(shift, inner):
    errors = []
    for steps in (40, 80):
        times = samplers.second_order_times(steps, shift, inner)
        mean, std = mean_and_std(flow_samples(samplers.sample_second_order, times))
        errors.append(torch.cat([std - STDS, mean - MEANS]).abs())
    assert (errors[1] < 1e-2).all()
    assert errors[1].max() <= 0.3 * errors[0].max()  # a quarter and a little: second order in the step


def test_an_odd_last_step_is_eulers():
    times = samplers.second_order_times(5, inner=0.5)
    assert times.tolist() == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 1])
    assert samplers.second_order_times(4, inner=1.0).tolist() == [0, 0.5, 0.5, 1, 1]
    assert samplers.second_order_times(1).tolist() == [0, 1]
    euler = flow_samples(samplers.sample_ode, samplers.ode_times(1))
    assert flow_samples(samplers.sample_second_order, samplers.second_order_times(1)).equal(euler)


def test_flow_temperatures():
    times = samplers.sde_times(20)
    plain, cool = flow_samples(samplers.sample_sde, times), flow_samples(samplers.sample_sde, times, 0.5)
    torch.testing.assert_close(cool[:2], plain[:2])
    torch.testing.assert_close(cool[2:] - cool[0], 0.5 * (plain[2:] - plain[0]))
    times = samplers.ode_times(20)
    plain, cool = flow_samples(samplers.sample_ode, times), flow_samples(samplers.sample_ode, times, 0.5)
    torch.testing.assert_close(cool[1] - cool[0], 0.5 * (plain[1] - plain[0]))
    torch.testing.assert_close(cool[2:], plain[0].expand_as(cool[2:]))  # no step noise


def test_time_grids():
    assert samplers.ode_times(4).tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert samplers.sde_times(4).tolist() == pytest.approx([0, 0.32, 0.64, 0.96, 1])
    assert samplers.sde_times(1).tolist() == [0, 1]
    sigma = 1 - torch.linspace(0, 1, 5)
    torch.testing.assert_close(1 - diffusion.shifted(1 - sigma, 3.0), 3 * sigma / (1 + 2 * sigma))  # SD3 eq. 23
    assert samplers.ode_times(4, 3.0).tolist() == pytest.approx([0, 0.1, 0.25, 0.5, 1])


def test_paths():
    x, noise, t = torch.randn(3, 7, 5, dtype=torch.float64)
    t = t[:, :1].sigmoid()
    x_t = diffusion.interpolate(x, noise, t)
    torch.testing.assert_close(x_t, t * x + (1 - t) * noise)
    torch.testing.assert_close(
        diffusion.velocity_from_x(x, x_t, t.clamp(max=0.95)), (x - x_t) / (1 - t).clamp(min=0.05)
    )
    torch.testing.assert_close(diffusion.velocity_from_x(x, x_t, t)[t[:, 0] < 0.9], (x - noise)[t[:, 0] < 0.9])
