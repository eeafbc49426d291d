"""The decoder beside an independent float64 implementation, written position by position."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional as F

from unifluid.backbones.attention import attend
from unifluid.backbones.decoder import Decoder
from unifluid.layout import Layout

VOCAB = 20


def normalised(x: np.ndarray, kind: str, weight: np.ndarray | float = 1.0) -> np.ndarray:
    x = x - x.mean() if kind == "layer" else x
    return x / np.sqrt((x * x).mean() + 1e-6) * weight


ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


def turned(x: np.ndarray, position: int, base: float) -> np.ndarray:
    """RoPE as complex numbers: dimension i and i + e/2 are one number, turned by position · base^(−2i/e)."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * base ** (-2 * np.arange(half) / len(x)))
    return np.concatenate([z.real, z.imag])


def reference(decoder: Decoder, x: np.ndarray, prefix: int) -> np.ndarray:
    """Hidden states (L, D) of one segment whose first `prefix` positions are its prefix."""
    p, options = {n: w.detach().double().numpy() for n, w in decoder.named_parameters()}, decoder.init_args
    norm, heads, kv_heads, e = (
        options["norm"],
        options["heads"],
        options["kv_heads"] or options["heads"],
        decoder.head_width,
    )
    for b in range(options["depth"]):
        w = {name.removeprefix(f"blocks.{b}."): v for name, v in p.items() if name.startswith(f"blocks.{b}.")}
        y = [normalised(row, norm, w["attention_norm.weight"]) for row in x]
        split = [[w[f"{part}.weight"] @ row for part in ("query", "key", "value")] for row in y]
        out = np.zeros_like(x)
        for head in range(heads):
            shared = head // (heads // kv_heads)
            q, k, v = ([s[part][i * e : i * e + e] for s in split] for part, i in enumerate((head, shared, shared)))
            if options["qk_norm"]:
                q, k = [normalised(t, norm) for t in q], [normalised(t, norm) for t in k]
            q = [turned(t, i, options["rope_base"]) for i, t in enumerate(q)]
            k = [turned(t, i, options["rope_base"]) for i, t in enumerate(k)]
            for i in range(len(x)):
                seen = [j for j in range(len(x)) if j < prefix or j <= i]
                scores = np.exp([q[i] @ k[j] / math.sqrt(e) for j in seen])
                out[i, head * e : head * e + e] = sum(
                    s * v[j] for s, j in zip(scores / scores.sum(), seen, strict=True)
                )
        x = x + out @ w["out.weight"].T
        for i, row in enumerate(x.copy()):
            y = normalised(row, norm, w["mlp_norm.weight"])
            gate, up = w["gate.weight"] @ y, w["up.weight"] @ y
            x[i] = row + w["down.weight"] @ (ACTIVATIONS[options["activation"]](gate) * up)
    return np.stack([normalised(row, norm, p["norm.weight"]) for row in x])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"kv_heads": None, "qk_norm": False, "activation": "gelu"},
        {"kv_heads": 1, "rope_base": 100.0, "norm": "layer", "activation": "relu"},
    ],
)
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
    bias = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    assert (attend(q, k, v, bias) - expected).abs().max() < 1e-6


@torch.no_grad()
def test_only_distances_between_positions_count():
    decoder = Decoder(VOCAB, **tiny.BACKBONE)
    layout, x = tiny.layout([[(3, 5)]], 8), torch.randn(1, 8, decoder.width)
    moved = Layout(layout.segments, layout.prefix, layout.positions + 100)
    assert (decoder(x, layout) - decoder(x, moved)).abs().max() < 1e-4


@torch.no_grad()
def test_embeddings_have_unit_size():
    decoder = Decoder(VOCAB, **tiny.BACKBONE)
    assert 0.7 < decoder.embed(torch.arange(VOCAB)).square().mean().sqrt() < 1.4


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 30}, "multiple"),
        ({"heads": 4, "kv_heads": 3}, "multiple"),
        ({"norm": "batch"}, "norm is one of"),
        ({"activation": "tanh"}, "activation of"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Decoder(VOCAB, **{**tiny.BACKBONE, **arguments})
