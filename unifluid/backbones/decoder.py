"""A decoder-only transformer from scratch: RMS or layer norm, RoPE, gated MLP, grouped-query attention, QK-norm.

Embeddings have unit size on entry (rows of norm 1 times √D, as Gemma scales them), so text, image tokens and positions
start at comparable scales. Shapes: see `interfaces`; h heads, k key-value heads, e head width, C cache positions.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unifluid.backbones.attention import attend, span
from unifluid.interfaces import Backbone, Cache
from unifluid.layout import Layout, Queries, attention_mask

NORMS = {"rms": functools.partial(nn.RMSNorm, eps=1e-6), "layer": functools.partial(nn.LayerNorm, eps=1e-6, bias=False)}
ACTIVATIONS = {"silu": F.silu, "gelu": functools.partial(F.gelu, approximate="tanh"), "relu": F.relu}


class Decoder(Backbone):
    """Trained from scratch, 1M to 1B parameters.

    Args:
        vocab_size: text ids, given by the text tokenizer.
        width: D, a multiple of `heads`.
        mlp_width: hidden width of the gated MLP; default 8/3 of `width`, rounded up to 32.
        kv_heads: key-value heads; default `heads` (no grouping).
        qk_norm: normalise queries and keys (no weights), which keeps attention stable at high learning rates.
        norm: "rms", or "layer" (without bias), which is several times faster on a CPU.
        activation: of the MLP's gate: "silu" (SwiGLU), "gelu" (GeGLU) or "relu" (ReGLU, the fastest on a CPU).
        tied: text classification shares the embedding matrix.
        rope_base: RoPE wavelength base (RoFormer, arXiv 2104.09864).
        init_scale: multiplies the fan-in initialisation of the matrices.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        kv_heads: int | None = None,
        mlp_width: int | None = None,
        qk_norm: bool = True,
        norm: Literal["rms", "layer"] = "rms",
        activation: Literal["silu", "gelu", "relu"] = "silu",
        tied: bool = True,
        rope_base: float = 10_000.0,
        init_scale: float = 1.0,
    ):
        super().__init__()
        kv_heads = kv_heads or heads
        if min(width, depth, heads, kv_heads) < 1:
            raise ValueError(
                f"width, depth, heads and kv_heads must be at least 1: {width}, {depth}, {heads}, {kv_heads}"
            )
        if width % heads or heads % kv_heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}, and heads of kv_heads {kv_heads}")
        if norm not in NORMS or activation not in ACTIVATIONS:
            raise ValueError(f"norm is one of {[*NORMS]} and activation of {[*ACTIVATIONS]}; got {norm}, {activation}")
        mlp_width = mlp_width or -(-width * 8 // 3 // 32) * 32
        self.width, self.vocab_size, self.rope_base = width, vocab_size, rope_base
        self.head_width = width // heads
        self.embedding = nn.Embedding(vocab_size, width)
        self.output = None if tied else nn.Linear(width, vocab_size, bias=False)
        self.blocks = nn.ModuleList(
            Block(width, heads, kv_heads, mlp_width, qk_norm, norm, activation) for _ in range(depth)
        )
        self.norm = NORMS[norm](width)
        self._init_weights(init_scale)

    def _init_weights(self, scale: float) -> None:
        """Fan-in normal; projections into the residual stream shrunk by √(2·depth), so that depth adds no variance."""
        nn.init.normal_(self.embedding.weight, std=self.width**-0.5)
        if self.output is not None:
            nn.init.zeros_(self.output.weight)
        for block in self.blocks:
            for linear in block.linears():
                nn.init.normal_(linear.weight, std=scale * linear.in_features**-0.5)
            for linear in (block.out, block.down):
                linear.weight.data /= math.sqrt(2 * len(self.blocks))

    @property
    def output_weight(self) -> Tensor:
        return self.embedding.weight if self.output is None else self.output.weight

    def layers(self) -> list[nn.Module]:
        return list(self.blocks)

    def embed(self, ids: Tensor) -> Tensor:
        return self.embedding(ids) * math.sqrt(self.width)

    def forward(self, x: Tensor, layout: Layout, cache: DecoderCache | None = None, at: Tensor | None = None) -> Tensor:
        queries, keys = span(x, cache, at)
        allowed = attention_mask(layout, queries)[:, None, :, :keys]
        dtype = self.compute_dtype(x)
        bias = torch.zeros(allowed.shape, dtype=dtype, device=x.device).masked_fill_(~allowed, float("-inf"))
        rotation = rope(layout.positions[:, queries], self.head_width, self.rope_base, dtype)
        for index, block in enumerate(self.blocks):
            x = block(x, bias, rotation, None if cache is None else cache.layer(index, queries, keys))
        if cache is not None:
            cache.length = keys
        return self.norm(x)

    @staticmethod
    def compute_dtype(x: Tensor) -> torch.dtype:
        """What the matmuls give: autocast's dtype where it is on."""
        device = x.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype

    def new_cache(self, layout: Layout, dtype: torch.dtype) -> DecoderCache:
        block = self.blocks[0]
        rows, capacity = layout.segments.shape
        shape = (len(self.blocks), 2, rows, block.kv_heads, capacity, self.head_width)
        return DecoderCache(layout, torch.zeros(shape, dtype=dtype, device=self.norm.weight.device))


class Block(nn.Module):
    """Pre-norm attention and gated MLP."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, mlp_width: int, qk_norm: bool, norm: str, activation: str
    ):
        super().__init__()
        self.kv_heads, self.head_width = kv_heads, width // heads
        self.activation = ACTIVATIONS[activation]
        self.attention_norm, self.mlp_norm = NORMS[norm](width), NORMS[norm](width)
        self.qk_norm = NORMS[norm](self.head_width, elementwise_affine=False) if qk_norm else nn.Identity()
        # Kept apart, not fused: Muon orthogonalises a matrix as a whole, and these are different maps.
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.value = nn.Linear(width, kv_heads * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, mlp_width, bias=False)
        self.up = nn.Linear(width, mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def linears(self) -> tuple[nn.Linear, ...]:
        return self.query, self.key, self.value, self.out, self.gate, self.up, self.down

    def forward(self, x: Tensor, bias: Tensor, rotation: tuple[Tensor, Tensor], cache: LayerCache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), bias, rotation, cache)
        y = self.mlp_norm(x)
        return x + self.down(self.activation(self.gate(y)) * self.up(y))

    def attention(self, x: Tensor, bias: Tensor, rotation: tuple[Tensor, Tensor], cache: LayerCache | None) -> Tensor:
        q, k, v = (
            rearrange(f(x), "b l (h e) -> b l h e", e=self.head_width) for f in (self.query, self.key, self.value)
        )
        # Together, since small models on a GPU wait for kernels to be launched.
        turned = rotate(self.qk_norm(torch.cat([q, k], dim=2)), rotation)
        q, k = turned.split([q.shape[2], k.shape[2]], dim=2)
        q, k, v = (rearrange(t, "b l h e -> b h l e") for t in (q, k, v))
        if cache is not None:
            k, v = cache.append(k, v)
        return self.out(rearrange(attend(q, k, v, bias), "b h l e -> b l (h e)"))


def rope(positions: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[cos, cos] and [-sin, sin] (B, L, 1, e) of the rotary angles of `positions` (B, L); angles in fp32."""
    half = width // 2
    frequency = base ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angle = positions[:, :, None, None].float() * frequency
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (i, i + e/2) of x (B, L, h, e)."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([b, a], dim=-1) * sin


class LayerCache:
    """One layer's slice of a cache: where the next keys and values go, and how many there are for them."""

    def __init__(self, storage: Tensor, queries: Queries, keys: int):
        self.storage, self.queries, self.keys = storage, queries, keys

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new k, v (B, k, L, e) -> all keys and values to attend to."""
        for storage, new in zip(self.storage, (k, v), strict=True):
            storage[:, :, self.queries] = new.to(storage.dtype)
        return self.storage[0, :, :, : self.keys], self.storage[1, :, :, : self.keys]


class DecoderCache(Cache):
    """Static storage (layers, 2, B, k, C, e) for keys and values."""

    def __init__(self, layout: Layout, storage: Tensor):
        self.layout, self.storage, self.length = layout, storage, 0

    def layer(self, index: int, queries: Queries, keys: int) -> LayerCache:
        return LayerCache(self.storage[index], queries, keys)

    def reorder(self, rows: Tensor) -> None:
        self.layout = self.layout.select(rows)
        self.storage = self.storage[:, :, rows]

    def clear(self) -> None:
        self.storage.zero_()
