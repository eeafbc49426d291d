"""What every image head promises, run over each `ImageHead` found in unifluid/heads."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil

import pytest
import torch
from torch import Tensor, nn

import unifluid.heads
from unifluid.interfaces import ImageHead

TOKEN, CONDITION = 4, 8
SMALL = dict(depth=2, width=64)
VARIANTS = {  # a class that is not named here is built with its defaults
    "DiffusionMLP": [SMALL, SMALL | dict(sampler="dpm++", time_shift=2.0), SMALL | dict(start=0.9)],
    "FlowMLP": [
        *(SMALL | dict(sampler=sampler) for sampler in ("ode", "midpoint", "heun", "sde")),
        SMALL | dict(prediction="x", time_shift=2.0),
    ],
}


def implementations() -> list[type[ImageHead]]:
    modules = [
        importlib.import_module(f"unifluid.heads.{m.name}") for m in pkgutil.iter_modules(unifluid.heads.__path__)
    ]
    classes = [c for m in modules for _, c in inspect.getmembers(m, inspect.isclass) if c.__module__ == m.__name__]
    return [c for c in classes if issubclass(c, ImageHead)]


CASES = [(c, options) for c in implementations() for options in VARIANTS.get(c.__name__, [{}])]
IDS = [f"{c.__name__}-{'-'.join(map(str, options.values()))}" for c, options in CASES]


def build(cls: type[ImageHead], options: dict) -> ImageHead:
    """As the kit builds it, with all parameters drawn anew: heads start at zero, where nothing depends on anything."""
    torch.manual_seed(0)
    head = cls(TOKEN, CONDITION, **options)
    for p in head.parameters():
        nn.init.normal_(p, std=0.1)
    return head


@pytest.fixture(params=CASES, ids=IDS)
def head(request) -> ImageHead:
    return build(*request.param)


def training_inputs(head: ImageHead, tokens: int = 6, copies: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    z, x = torch.randn(tokens, CONDITION, generator=g), torch.randn(tokens, TOKEN, generator=g)
    u, noise = torch.rand(copies, tokens, generator=g), torch.randn(copies, tokens, TOKEN, generator=g)
    return z, x, head.times(u), noise


def sampling_inputs(tokens: int = 6, branches: int = 3, steps: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    z, noise = torch.randn(branches, tokens, CONDITION, generator=g), torch.randn(steps + 1, tokens, TOKEN, generator=g)
    weights = torch.rand(branches, tokens, generator=g) - 0.5
    weights[0] = 1 - weights[1:].sum(0)
    return z, noise, weights


def test_heads_are_found():
    assert {c.__name__ for c in implementations()} >= {"DiffusionMLP", "FlowMLP"}


def test_dimensions_and_arguments_are_recorded(head):
    assert (head.token_dim, head.condition_dim) == (TOKEN, CONDITION)
    again = type(head)(**head.init_args)
    again.load_state_dict(head.state_dict())
    arguments = training_inputs(head)
    assert again.loss(*arguments).equal(head.loss(*arguments))


def test_checkpoints_hold_weights_only(head):
    assert set(head.state_dict()) == {name for name, _ in head.named_parameters()}


def test_times(head):
    u = torch.tensor([[0.0, 0.1, 0.5], [0.9, 0.99, 1 - 2**-24]])
    t = head.times(u)
    assert t.shape == u.shape
    assert (t.flatten().diff() >= 0).all() or (t.flatten().diff() <= 0).all()
    z, x, _, noise = training_inputs(head, tokens=3, copies=2)
    assert head.loss(z, x, t, noise).isfinite().all()


def test_loss_is_per_token_and_copy_in_float32(head):
    z, x, t, noise = training_inputs(head)
    loss = head.loss(z, x, t, noise)
    assert loss.shape == t.shape and loss.dtype == torch.float32 and loss.isfinite().all()
    single = torch.stack([head.loss(z, x, t[k : k + 1], noise[k : k + 1])[0] for k in range(len(t))])
    torch.testing.assert_close(single, loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changed", ["z", "x", "t", "noise"])
def test_loss_of_a_token_depends_on_its_own_arguments_only(head, changed):
    arguments = dict(zip(("z", "x", "t", "noise"), training_inputs(head), strict=True))
    before = head.loss(**arguments)
    other = arguments[changed].clone()
    if changed == "t":
        other[1, 2] = head.times(torch.tensor(0.03))
    else:
        other[(2,) if changed in "zx" else (1, 2)] += 1
    differs = head.loss(**(arguments | {changed: other})) != before
    want = torch.zeros_like(differs)
    want[slice(None) if changed in "zx" else 1, 2] = True
    assert differs.equal(want)


def test_gradients_reach_condition_and_parameters(head):
    z, x, t, noise = training_inputs(head)
    z.requires_grad_()
    head.loss(z, x, t, noise).mean().backward()
    assert (z.grad.abs().sum(-1) > 0).all()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())


def test_no_tokens(head):
    z, x, t, noise = (a[:0] if a.ndim == 2 and len(a) == 6 else a[:, :0] for a in training_inputs(head))
    assert head.loss(z, x, t, noise).shape == (3, 0)
    z, noise, weights = sampling_inputs()
    assert head.sample(z[:, :0], noise[:, :0], weights[:, :0]).shape == (0, TOKEN)


def test_bf16_changes_little(head):
    """In autocast, and with the weights themselves in bf16: only matmuls are rounded, the maths stays float32."""
    training, sampling = training_inputs(head), sampling_inputs()
    loss, sample = head.loss(*training), head.sample(*sampling)
    with torch.autocast("cpu", torch.bfloat16):
        results = [(head.loss(*training), head.sample(*sampling))]
    head.to(torch.bfloat16)
    results.append((head.loss(*training), head.sample(*sampling)))
    for got_loss, got_sample in results:
        assert got_loss.dtype == got_sample.dtype == torch.float32
        torch.testing.assert_close(got_loss, loss, rtol=0.05, atol=0.05)
        assert (got_sample - sample).norm() < 0.05 * sample.norm()


def test_sample_is_a_function_of_its_arguments_row_by_row(head):
    z, noise, weights = sampling_inputs()
    sample = head.sample(z, noise, weights)
    assert sample.shape == (6, TOKEN) and sample.dtype == torch.float32 and sample.isfinite().all()
    assert not sample.requires_grad
    torch.rand(7)
    assert head.sample(z, noise, weights).equal(sample)
    rows = torch.tensor([4, 1])
    some = head.sample(z[:, rows], noise[:, rows], weights[:, rows])
    torch.testing.assert_close(some, sample[rows], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(head.sample(z, noise + 0.1, weights), sample, rtol=1e-3)


def test_guidance(head):
    z, noise, weights = sampling_inputs()
    alone = head.sample(z[:1], noise, torch.ones(1, 6))
    off = torch.zeros(3, 6)
    off[0] = 1
    torch.testing.assert_close(head.sample(z, noise, off), alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(head.sample(z[:1].expand_as(z), noise, weights), alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(head.sample(z, noise, weights), alone, rtol=1e-3)
    mixed = torch.where(torch.arange(6) < 3, off, weights)  # each token has its own weights
    torch.testing.assert_close(head.sample(z, noise, mixed)[:3], alone[:3], rtol=1e-4, atol=1e-4)


def test_outside_the_interval_the_condition_is_alone(head):
    z, noise, weights = sampling_inputs()
    alone, guided = head.sample(z[:1], noise, torch.ones(1, 6)), head.sample(z, noise, weights)
    torch.testing.assert_close(head.sample(z, noise, weights, interval=(0.0, 1.0)), guided)
    torch.testing.assert_close(head.sample(z, noise, weights, interval=(0.5, 0.5)), alone, rtol=1e-4, atol=1e-4)
    partly = head.sample(z, noise, weights, interval=(0.25, 0.75))
    assert not partly.equal(alone) and not partly.equal(guided)


def test_temperature(head):
    arguments = sampling_inputs()
    assert head.sample(*arguments, temperature=1.0).equal(head.sample(*arguments))
    assert not torch.allclose(head.sample(*arguments, temperature=0.5), head.sample(*arguments), rtol=1e-4)


def test_training_goes_on_after_sampling_in_inference_mode(head):
    with torch.inference_mode():
        head.sample(*sampling_inputs())
        head.loss(*training_inputs(head))
    head.loss(*training_inputs(head)).mean().backward()
    copy.deepcopy(head)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_loss_falls(case):
    """From its own initial weights, on three fixed pairs of condition and token."""
    torch.manual_seed(0)
    head = case[0](TOKEN, CONDITION, **case[1])
    z, x = torch.randn(3, CONDITION), torch.randn(3, TOKEN)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    g = torch.Generator().manual_seed(3)
    fixed = head.times(torch.rand(64, 3, generator=g)), torch.randn(64, 3, TOKEN, generator=g)
    before = head.loss(z, x, *fixed).mean().item()
    for _ in range(200):
        t, noise = head.times(torch.rand(32, 3, generator=g)), torch.randn(32, 3, TOKEN, generator=g)
        loss = head.loss(z, x, t, noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = head.loss(z, x, *fixed).mean().item()
    assert after < 0.3 * before
