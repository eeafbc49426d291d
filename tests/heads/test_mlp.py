"""The heads' network: initialisation, the hoisted trajectory, guidance branches by broadcasting."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unifluid.heads import mlp
from unifluid.heads.mlp import AdaLNMLP


def randomised() -> AdaLNMLP:
    torch.manual_seed(0)
    net = AdaLNMLP(in_dim=4, out_dim=6, condition_dim=8, depth=2, width=32)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    return net


def test_initial_weights():
    torch.manual_seed(0)
    net = AdaLNMLP(in_dim=4, out_dim=6, condition_dim=64, depth=2, width=512)
    for layer in (net.modulation, net.output, *(b.modulation for b in net.blocks)):
        assert not layer.weight.any()
    assert all(not p.any() for name, p in net.named_parameters() if name.endswith("bias"))
    for layer in (net.time[0], net.time[2]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for layer in (net.condition, net.blocks[0].mlp[0], net.blocks[1].mlp[2]):  # Xavier uniform
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    out = net(torch.randn(3, 5, 4), torch.rand(3, 5), torch.randn(5, 64))
    assert out.shape == (3, 5, 6) and not out.any()


def test_sinusoid():
    features = mlp.sinusoid(torch.tensor([0.0, 999.0], dtype=torch.float64))
    assert features.shape == (2, 256)
    assert features[0].tolist() == [1.0] * 128 + [0.0] * 128
    assert features[1, 0].item() == pytest.approx(math.cos(999))
    assert features[1, 128 + 37].item() == pytest.approx(math.sin(999 * 10_000 ** (-37 / 128)))


@pytest.mark.parametrize("rows", [1, 12, 1000])
def test_trajectory_gives_what_forward_gives(monkeypatch, rows):
    """Whatever number of steps is computed at once, and for all guidance branches from one x."""
    monkeypatch.setattr(mlp, "MATMUL_ROWS", rows)
    net = randomised().double()
    x, z = torch.randn(3, 4, dtype=torch.float64), torch.randn(2, 3, 8, dtype=torch.float64)
    t = torch.tensor([999.0, 700.0, 400.0, 10.0, 0.0], dtype=torch.float64)
    trajectory = list(net.trajectory(t, z))
    assert len(trajectory) == 5
    for time, modulations in zip(t, trajectory, strict=True):
        got = net.transform(x, modulations)
        for branch in range(2):
            want = net(x[None], time.expand(1, 3), z[branch])[0]
            torch.testing.assert_close(got[branch], want, rtol=1e-10, atol=1e-10)


def test_condition_is_projected_once_per_token():
    net = randomised()
    rows = []
    net.condition.register_forward_hook(lambda module, inputs, output: rows.append(output[..., 0].numel()))
    net(torch.randn(7, 3, 4), torch.rand(7, 3), torch.randn(3, 8))
    list(net.trajectory(torch.arange(50.0), torch.randn(2, 3, 8)))
    assert rows == [3, 6]
