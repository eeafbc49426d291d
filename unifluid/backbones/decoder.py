"""A decoder-only transformer from scratch: RMSNorm, RoPE, gated MLP, grouped-query attention, QK-norm.

Embeddings have unit size on entry (rows of norm 1 times √D, as Gemma scales them), so text, image tokens and positions
start at comparable scales. Shapes: see `interfaces`; h heads, k key-value heads, e head width, C cache positions.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unifluid.interfaces import Backbone, Cache
from unifluid.sequence import Layout, attention_mask


class Decoder(Backbone):
    """Trained from scratch, 1M to 1B parameters.

    Args:
        vocab_size: text ids, given by the text tokenizer.
        width: D, a multiple of `heads`.
        mlp_width: hidden width of the gated MLP; default 8/3 of `width`, rounded up to 32.
        kv_heads: key-value heads; default `heads` (no grouping).
        qk_norm: RMS-normalise queries and keys, which keeps attention stable at high learning rates.
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
        tied: bool = True,
        rope_base: float = 10_000.0,
        init_scale: float = 1.0,
    ):
        super().__init__()
        kv_heads = kv_heads or heads
        if width % heads or heads % kv_heads:
            raise ValueError(f"width {width} must be a multiple of heads {heads}, and heads of kv_heads {kv_heads}")
        mlp_width = mlp_width or -(-width * 8 // 3 // 32) * 32
        self.width, self.vocab_size, self.rope_base = width, vocab_size, rope_base
        self.head_width = width // heads
        self.embedding = nn.Embedding(vocab_size, width)
        self.output = None if tied else nn.Linear(width, vocab_size, bias=False)
        self.blocks = nn.ModuleList(
            Block(width, heads, kv_heads, mlp_width, qk_norm) for _ in range(depth)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self._init_weights(init_scale)

    def _init_weights(self, scale: float) -> None:
        """Fan-in normal; projections into the residual stream shrunk by √(2·depth), so that depth adds no variance."""
        nn.init.normal_(self.embedding.weight, std=self.width**-0.5)
        if self.output is not None:
            nn.init.normal_(self.output.weight, std=self.width**-0.5)
        for block in self.blocks:
            for linear in (block.qkv, block.out, block.gate_up, block.down):
                nn.init.normal_(linear.weight, std=scale * linear.in_features**-0.5)
            for linear in (block.out, block.down):
                linear.weight.data /= math.sqrt(2 * len(self.blocks))

    @property
    def output_weight(self) -> Tensor:
        return self.embedding.weight if self.output is None else self.output.weight

    def embed(self, ids: Tensor) -> Tensor:
        return self.embedding(ids) * math.sqrt(self.width)

    def forward(self, x: Tensor, layout: Layout, cache: DecoderCache | None = None) -> Tensor:
        start = 0 if cache is None else cache.length
        stop = start + x.shape[1]
        # Without a cache the keys are the queries; with one, all filled positions: columns after `stop` hold nothing.
        mask = attention_mask(layout, start, stop)[:, None, :, :stop]
        rotation = rope(layout.positions[:, start:stop], self.head_width, self.rope_base)
        for index, block in enumerate(self.blocks):
            x = block(x, mask, rotation, None if cache is None else cache.layer(index, start, stop))
        if cache is not None:
            cache.length = stop
        return self.norm(x)

    def new_cache(self, layout: Layout, dtype: torch.dtype) -> DecoderCache:
        block = self.blocks[0]
        rows, capacity = layout.segments.shape
        shape = (len(self.blocks), 2, rows, block.kv_heads, capacity, self.head_width)
        return DecoderCache(layout, torch.empty(shape, dtype=dtype, device=self.norm.weight.device))


class Block(nn.Module):
    """Pre-norm attention and gated (SwiGLU) MLP."""

    def __init__(self, width: int, heads: int, kv_heads: int, mlp_width: int, qk_norm: bool):
        super().__init__()
        head_width = width // heads
        self.heads, self.kv_heads = heads, kv_heads
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * head_width, bias=False)
        self.query_norm = nn.RMSNorm(head_width, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(head_width, eps=1e-6) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate_up = nn.Linear(width, 2 * mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)

    def forward(self, x: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor], cache: LayerCache | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask, rotation, cache)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)

    def attention(self, x: Tensor, mask: Tensor, rotation: tuple[Tensor, Tensor], cache: LayerCache | None) -> Tensor:
        heads = [self.heads, self.kv_heads, self.kv_heads]
        q, k, v = rearrange(self.qkv(x), "b l (h e) -> b h l e", h=sum(heads)).split(heads, dim=1)
        q, k = rotate(self.query_norm(q), rotation), rotate(self.key_norm(k), rotation)
        k, v = k.to(v.dtype), v
        if cache is not None:
            k, v = cache.append(k, v)
        y = attend(q.to(v.dtype), k, v, mask)
        return self.out(rearrange(y, "b h l e -> b l (h e)"))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention: q (B, h, L, e), k and v (B, k, C, e), mask (B, 1, L, C) True where allowed -> (B, h, L, e).

    On a CPU at these lengths matmul-softmax-matmul is far faster than SDPA, whose backward dominates in bf16.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=q.shape[1] != k.shape[1])
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1).to(v.dtype) @ v


def rope(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, L, e/2) of the rotary angles of `positions` (B, L), fp32."""
    half = width // 2
    frequency = base ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angle = positions[:, None, :, None].float() * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs (i, i + e/2) of x (B, h, L, e)."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class LayerCache:
    """One layer's slice of a cache: where the next keys and values go."""

    def __init__(self, storage: Tensor, start: int, stop: int):
        self.storage, self.start, self.stop = storage, start, stop

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new k, v (B, k, L, e) -> all keys and values so far."""
        self.storage[0, :, :, self.start : self.stop] = k
        self.storage[1, :, :, self.start : self.stop] = v
        return self.storage[0, :, :, : self.stop], self.storage[1, :, :, : self.stop]


class DecoderCache(Cache):
    """Static storage (layers, 2, B, k, C, e) for keys and values."""

    def __init__(self, layout: Layout, storage: Tensor):
        self.layout, self.storage, self.length = layout, storage, 0

    def layer(self, index: int, start: int, stop: int) -> LayerCache:
        return LayerCache(self.storage[index], start, stop)

    def reorder(self, rows: Tensor) -> None:
        self.layout = self.layout.select(rows)
        self.storage = self.storage[:, :, rows]
