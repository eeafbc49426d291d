"""What every backbone found in `unifluid.backbones` must hold, over random layouts."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import random

import pytest
import tiny
import torch
from families import FAMILIES

import unifluid.backbones
from unifluid.interfaces import Backbone
from unifluid.layout import Layout

VOCAB = 24
ARGUMENTS = {  # tiny ones of every class
    "Decoder": [
        tiny.BACKBONE,
        {**tiny.BACKBONE, "qk_norm": False, "tied": False},
        {**tiny.BACKBONE, "norm": "layer", "activation": "relu", "kv_heads": 4},
    ],
    "HuggingFaceBackbone": [{"config": config} for config in FAMILIES.values()],
}


def found() -> list[type[Backbone]]:
    names = [m.name for m in pkgutil.iter_modules(unifluid.backbones.__path__, "unifluid.backbones.")]
    classes = [c for n in names for c in vars(importlib.import_module(n)).values() if inspect.isclass(c)]
    return list(dict.fromkeys(c for c in classes if issubclass(c, Backbone) and not inspect.isabstract(c)))


CASES = [(c, arguments) for c in found() for arguments in ARGUMENTS.get(c.__name__, [])]


def test_every_backbone_is_covered():
    assert {c.__name__ for c in found()} == set(ARGUMENTS), "give tiny arguments of the new backbone in ARGUMENTS"


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1].get('config', {}).get('model_type', '')}")
def backbone(request) -> Backbone:
    cls, arguments = request.param
    torch.manual_seed(0)
    return cls(VOCAB, **arguments).eval()


def random_layout(seed: int, length: int = 18) -> Layout:
    """Rows of one to three segments, with or without prefix, suffix and padding."""
    draw = random.Random(seed)
    rows = []
    for _ in range(2):
        cuts = sorted(draw.sample(range(length + 1), draw.randint(2, 4)))
        sizes = [b - a for a, b in zip(cuts, cuts[1:], strict=False)]
        rows.append([(p := draw.randint(0, n), n - p) for n in sizes])
    return tiny.layout(rows, length, pad_left=draw.random() < 0.5)


def inputs(rows: int, length: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed))


def sees(segments: list[int], prefix: list[bool], query: int, key: int) -> bool:
    """The rule in plain Python: prefix positions see each other, suffix positions also what came before."""
    if segments[query] != segments[key]:
        return False
    if prefix[key]:
        return True
    return key <= query


@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_no_position_sees_what_it_may_not(backbone, seed):
    layout = random_layout(seed)
    x = inputs(*layout.segments.shape, backbone.width)
    before = backbone(x, layout)
    for row, (segments, prefix) in enumerate(zip(layout.segments.tolist(), layout.prefix.tolist(), strict=True)):
        for key in range(len(segments)):
            changed = x.clone()
            changed[row, key] = inputs(1, 1, backbone.width, seed=1 + key)[0, 0]
            after = backbone(changed, layout)
            for query in range(len(segments)):
                same = torch.equal(before[row, query], after[row, query])
                assert same != sees(segments, prefix, query, key), (row, query, key)
            assert torch.equal(before[1 - row], after[1 - row])


@torch.no_grad()
def test_shapes(backbone):
    layout = random_layout(0)
    x = inputs(*layout.segments.shape, backbone.width)
    assert backbone(x, layout).shape == x.shape
    assert backbone.embed(torch.tensor([[1, 2, 3]])).shape == (1, 3, backbone.width)
    assert backbone.output_weight.shape == (VOCAB, backbone.width) and backbone.vocab_size == VOCAB
    assert backbone.init_args["vocab_size"] == VOCAB


@torch.no_grad()
def test_a_packed_segment_is_what_it_is_alone(backbone):
    sizes = [(3, 4), (5, 2), (2, 0), (0, 5)]
    packed = tiny.layout([sizes[:2], sizes[2:]], 16)
    x = inputs(2, 16, backbone.width)
    h = backbone(x, packed)
    for row, start, size in ((0, 0, sizes[0]), (0, 7, sizes[1]), (1, 0, sizes[2]), (1, 2, sizes[3])):
        span = slice(start, start + sum(size))
        alone = backbone(x[row : row + 1, span], tiny.layout([[size]], sum(size)))
        assert (h[row, span] - alone[0]).abs().max() <= 1e-5


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(backbone):
    x = inputs(1, 8, backbone.width)
    alone = backbone(x, tiny.layout([[(5, 3)]], 8))
    for left in (False, True):
        padded = inputs(1, 12, backbone.width, seed=1)
        span = slice(4, 12) if left else slice(0, 8)
        padded[:, span] = x
        h = backbone(padded, tiny.layout([[(5, 3)]], 12, pad_left=left))
        assert (h[:, span] - alone).abs().max() <= 1e-5


@pytest.mark.parametrize("chunks", [[1] * 7, [7], [2, 1, 4]])
@torch.no_grad()
def test_cached_equals_uncached(backbone, chunks):
    layout = tiny.layout([[(3, 7)], [(6, 7)], [(1, 7)]], 13, pad_left=True)
    x = inputs(3, 13, backbone.width)
    full = backbone(x, layout)
    cache = backbone.new_cache(layout, x.dtype)
    parts = [backbone(x[:, :6], layout, cache)]
    for n in chunks:
        parts.append(backbone(x[:, cache.length : cache.length + n], layout, cache))
    assert cache.length == 13
    real = layout.segments > 0
    assert (torch.cat(parts, 1) - full)[real].abs().max() <= 1e-5


@torch.no_grad()
def test_positions_can_be_given_as_tensors_and_a_cache_be_filled_anew(backbone):
    layout = tiny.layout([[(3, 7)], [(6, 7)], [(1, 7)]], 13, pad_left=True)
    x = inputs(3, 13, backbone.width)
    cache = backbone.new_cache(layout.map(torch.zeros_like), x.dtype)
    backbone(x * float("nan"), cache.layout, cache)
    cache.restart(layout)
    parts = [backbone(x[:, :6], cache.layout, cache)]
    for at in torch.arange(6, 13).split([1, 1, 2, 3]):
        cached = backbone(x[:, at], cache.layout, cache, at)
        parts.append(cached[:, -1:])
    real = layout.segments > 0
    chosen = torch.tensor([*range(6), 6, 7, 9, 12])
    full = backbone(x, layout)[:, chosen]
    assert (torch.cat(parts, 1) - full)[real[:, chosen]].abs().max() <= 1e-5


@torch.no_grad()
def test_a_cache_can_be_reordered_and_widened(backbone):
    layout = tiny.layout([[(3, 4)], [(5, 4)]], 9, pad_left=True)
    x = inputs(2, 9, backbone.width)
    rows = torch.tensor([1, 0, 1])
    cache = backbone.new_cache(layout, x.dtype)
    backbone(x[:, :7], layout, cache)
    cache.reorder(rows)
    assert torch.equal(cache.layout.positions, layout.positions[rows])
    h = backbone(x[rows, 7:], cache.layout, cache)
    assert (h - backbone(x, layout)[rows, 7:]).abs().max() <= 1e-5


def test_gradients_are_finite_with_padding(backbone):
    layout = tiny.layout([[(2, 3)], []], 8)
    x = inputs(2, 8, backbone.width).requires_grad_()
    backbone(x, layout)[0, :5].sum().backward()
    assert x.grad.isfinite().all()
    assert not x.grad[1].any() and not x.grad[0, 5:].any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in backbone.parameters())


@torch.no_grad()
def test_mixed_precision_stays_close(backbone):
    layout = tiny.layout([[(3, 7)], [(6, 7)]], 13, pad_left=True)
    x = inputs(2, 13, backbone.width)
    with torch.autocast("cpu", torch.bfloat16):
        h = backbone(x, layout)
        cache = backbone.new_cache(layout, torch.bfloat16)
        cached = torch.cat([backbone(x[:, :6], layout, cache), backbone(x[:, 6:], layout, cache)], 1)
    full, real = backbone(x, layout), layout.segments > 0
    assert (h - full)[real].abs().max() < 0.1
    assert (cached - full)[real].abs().max() < 0.1
