"""Attention under the one rule of `sequence.may_attend`: the kernels of every backbone, and what queries see.

Shapes: h heads, k key-value heads, e head width, L queries, C keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unifluid.interfaces import Cache
from unifluid.layout import Layout, Queries, attention_mask, may_attend

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float | None = None, softcap: float | None = None
) -> Tensor:
    """Softmax attention: q (B, h, L, e), k and v (B, k, C, e), bias (B, 1, L, C) 0 or −inf -> (B, h, L, e).

    `scale` multiplies the scores (default e^−½), which are then softly capped to ± `softcap`, if any (Gemma 2,
    2408.00118). On a CPU the dtype of `bias` is that of the softmax. There, at these lengths, matmul-softmax-matmul is
    far faster than SDPA, whose backward dominates in bf16; and SDPA cannot cap.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if q.device.type != "cpu" and softcap is None:
        gqa = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), scale=scale, enable_gqa=gqa)
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, dim=1) if groups > 1 else t for t in (k, v))
    with torch.autocast("cpu", enabled=False):  # it would run the softmax in fp32, at three more passes
        scores = (q * scale) @ k.mT
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        return (scores + bias).softmax(dim=-1).to(v.dtype) @ v


def span(x: Tensor, cache: Cache | None, at: Tensor | None) -> tuple[Queries, int]:
    """Which positions x (B, L, D) of `Backbone.forward` holds, and how many keys there are for them, from the first."""
    if at is not None:
        return at, cache.layout.segments.shape[1]
    start = 0 if cache is None else cache.length
    stop = start + x.shape[1]
    return slice(start, stop), stop


class Pattern:
    """What the `queries` of one forward pass see of its first `keys` keys, as a mask for each kind of kernel.

    Layers ask for their own window; each mask is made once. `flexible` chooses FlexAttention, which skips blocks of the
    mask and never holds all scores; its queries are all positions.
    """

    def __init__(self, layout: Layout, queries: Queries, keys: int, flexible: bool = False):
        self.layout, self.queries, self.keys, self.flexible = layout, queries, keys, flexible
        self._bias: dict[int | None, Tensor] = {}
        self._blocks: dict[int | None, BlockMask] = {}

    def bias(self, window: int | None = None) -> Tensor:
        """(B, 1, queries, keys) fp32: 0 where a query may look, −inf elsewhere."""
        if window not in self._bias:
            allowed = attention_mask(self.layout, self.queries, window)[:, None, :, : self.keys]
            bias = torch.zeros(allowed.shape, device=allowed.device)
            self._bias[window] = bias.masked_fill_(~allowed, float("-inf"))
        return self._bias[window]

    def blocks(self, window: int | None = None) -> BlockMask:
        """The same rule as FlexAttention takes it."""
        from torch.nn.attention.flex_attention import create_block_mask

        def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return may_attend(self.layout, row, query, key, window)

        if window not in self._blocks:
            rows, length = self.layout.segments.shape
            device = self.layout.segments.device
            self._blocks[window] = create_block_mask(seen, rows, None, length, length, device=device)
        return self._blocks[window]


def flex_attend(q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask, scale: float, softcap: float | None) -> Tensor:
    """`attend` by FlexAttention. Its kernels have to be compiled; on a CPU they have no backward."""
    gqa = q.shape[1] != k.shape[1]
    return _flex_kernel(q.device.type)(q, k, v, _soft_cap(softcap), blocks, scale=scale, enable_gqa=gqa)


def _soft_cap(softcap: float | None) -> Callable[..., Tensor] | None:
    if softcap is None:
        return None
    return lambda score, row, head, query, key: softcap * torch.tanh(score / softcap)


def _flex_kernel(device: str) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    # In a compiled backbone it is compiled along with the rest.
    return flex_attention if device == "cpu" or torch.compiler.is_compiling() else _compiled_flex_attention()


@functools.cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def library_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    pattern: Pattern | None = None,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """The form in which the layers of the transformers library call attention: heads before positions in, after out.

    They pass `pattern` through, and scale, window and soft-cap of their own. No mask of theirs is made, since none is
    registered under this function's name.
    """
    if pattern is None or s_aux is not None:
        what = "passes nothing on to its attention" if pattern is None else "has attention sinks"
        raise ValueError(f"{type(module).__name__} of the transformers library {what}, which is not supported")
    # Under autocast the rotary angles are fp32, and so is what they have turned.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if pattern.flexible:
        out = flex_attend(query, key, value, pattern.blocks(sliding_window), scaling, softcap)
    else:
        out = attend(query, key, value, pattern.bias(sliding_window), scaling, softcap)
    return out.transpose(1, 2).contiguous(), None
