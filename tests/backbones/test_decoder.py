"""The decoder beside an independent float64 implementation, written position by position."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from unifluid.backbones.decoder import Decoder, attend
from unifluid.sequence import Layout

VOCAB = 20


def rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean() + 1e-6) * weight


def turned(x: np.ndarray, position: int, base: float) -> np.ndarray:
    """RoPE as complex numbers: dimension i and i + e/2 are one number, turned by position · base^(−2i/e)."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * base ** (-2 * np.arange(half) / len(x)))
    return np.concatenate([z.real, z.imag])


def reference(decoder: Decoder, x: np.ndarray, prefix: int) -> np.ndarray:
    """Hidden states (L, D) of one segment whose first `prefix` positions are its prefix."""
    p = {name: w.detach().double().numpy() for name, w in decoder.named_parameters()}
    first = decoder.blocks[0]
    e, groups = decoder.head_width, first.heads // first.kv_heads
    for b in range(len(decoder.blocks)):
        w = {name.removeprefix(f"blocks.{b}."): v for name, v in p.items() if name.startswith(f"blocks.{b}.")}
        qkv = [w["qkv.weight"] @ rms(row, w["attention_norm.weight"]) for row in x]
        split = [np.split(row, [first.heads * e, (first.heads + first.kv_heads) * e]) for row in qkv]
        out = np.zeros_like(x)
        for head in range(first.heads):
            own, shared = slice(head * e, head * e + e), slice(head // groups * e, head // groups * e + e)
            q, k, v = [s[0][own] for s in split], [s[1][shared] for s in split], [s[2][shared] for s in split]
            if "query_norm.weight" in w:
                q = [rms(t, w["query_norm.weight"]) for t in q]
                k = [rms(t, w["key_norm.weight"]) for t in k]
            q = [turned(t, i, decoder.rope_base) for i, t in enumerate(q)]
            k = [turned(t, i, decoder.rope_base) for i, t in enumerate(k)]
            for i in range(len(x)):
                seen = [j for j in range(len(x)) if j < prefix or j <= i]
                scores = np.exp([q[i] @ k[j] / math.sqrt(e) for j in seen])
                out[i, own] = sum(s * v[j] for s, j in zip(scores / scores.sum(), seen, strict=True))
        x = x + out @ w["out.weight"].T
        for i, row in enumerate(x.copy()):
            gate, up = np.split(w["gate_up.weight"] @ rms(row, w["mlp_norm.weight"]), 2)
            x[i] = row + w["down.weight"] @ (gate / (1 + np.exp(-gate)) * up)
    return np.stack([rms(row, p["norm.weight"]) for row in x])


@pytest.mark.parametrize("arguments", [{}, {"kv_heads": 4, "qk_norm": False}, {"kv_heads": 1, "rope_base": 100.0}])
def test_forward_equals_the_equations(arguments):
    torch.manual_seed(0)
    decoder = Decoder(VOCAB, **{**tiny.BACKBONE, **arguments}).double()
    for parameter in decoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(1, 7, decoder.width, dtype=torch.float64)
    h = decoder(x, tiny.layout([[(4, 3)]], 7))[0]
    expected = torch.from_numpy(reference(decoder, x[0].numpy(), prefix=4))
    assert (h - expected).abs().max() < 1e-6  # angles are fp32


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attend_equals_torch(kv_heads):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, kv_heads, 9, 8), torch.randn(2, kv_heads, 9, 8)
    mask = torch.rand(2, 1, 5, 9) < 0.7
    mask[..., 0] = True
    expected = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    assert (attend(q, k, v, mask) - expected).abs().max() < 1e-6


@torch.no_grad()
def test_only_distances_between_positions_count():
    decoder = Decoder(VOCAB, **tiny.BACKBONE)
    layout, x = tiny.layout([[(3, 5)]], 8), torch.randn(1, 8, decoder.width)
    moved = Layout(layout.segments, layout.prefix, layout.positions + 100)
    assert (decoder(x, layout) - decoder(x, moved)).abs().max() < 1e-4


def test_tied_and_untied_output():
    tied, untied = Decoder(VOCAB, **tiny.BACKBONE), Decoder(VOCAB, tied=False, **tiny.BACKBONE)
    assert tied.output_weight is tied.embedding.weight
    assert untied.output_weight is untied.output.weight and untied.output_weight is not untied.embedding.weight


def test_depth_adds_no_variance_at_the_start():
    """Initial logits are near unit size, and the stream of a deep model hardly larger than that of a shallow one."""
    torch.manual_seed(0)
    sizes = []
    for depth in (2, 16):
        decoder = Decoder(VOCAB, width=64, depth=depth, heads=4)
        stream = []
        decoder.norm.register_forward_pre_hook(lambda _, args, stream=stream: stream.append(args[0]))
        with torch.no_grad():
            h = decoder(torch.randn(4, 16, 64), tiny.layout([[(8, 8)]] * 4, 16))
        sizes.append(stream[0].std().item())
        assert 0.5 < (h @ decoder.output_weight.T).std() < 2
    assert sizes[1] < 1.3 * sizes[0]


@pytest.mark.parametrize("arguments", [{"width": 30}, {"heads": 4, "kv_heads": 3}])
def test_sizes_that_do_not_fit_are_refused(arguments):
    with pytest.raises(ValueError, match="multiple"):
        Decoder(VOCAB, **{**tiny.BACKBONE, **arguments})
