"""Where the positions of packed rows belong, and the one attention rule, which is a function of that alone.

Every segment of a row is a prefix, bidirectional unless the formatter has it causal, followed by a causal suffix
(`sequence` lays out the tasks), whose positions may come in rounds that see all of themselves. The dense mask,
FlexAttention and the cache are all derived from `may_attend`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Queries = slice | Tensor  # positions of a row: a slice, or their numbers (Q,) on the device


@dataclass
class Layout:
    """What attention needs to know of rows of L positions.

    Args:
        segments: (B, L), 1, 2, … within a row, 0 for padding.
        prefix: (B, L), True where the position belongs to its segment's bidirectional prefix.
        positions: (B, L), 0, 1, … from each segment's start.
        ahead: (B, L), how many positions of its own round come after it; None where all rounds are single positions.
    """

    segments: Tensor
    prefix: Tensor
    positions: Tensor
    ahead: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Layout:
        """All tensors changed alike."""
        return Layout(*(None if tensor is None else change(tensor) for tensor in vars(self).values()))

    def select(self, rows: Tensor) -> Layout:
        return self.map(lambda tensor: tensor[rows])


def may_attend(layout: Layout, row: Tensor, query: Tensor, key: Tensor, window: int | None = None) -> Tensor:
    """THE attention rule, for broadcastable index tensors: same segment, and the key is prefix or not after the query's
    round, which is the query alone unless `layout.ahead` says more.

    Padding is segment 0: real positions never see it, and padding sees only padding, so no softmax is ever empty.
    `window`, in layers that have one: the two are fewer than that many positions apart, before or after, as in Gemma's
    reference code.
    """
    same = layout.segments[row, query] == layout.segments[row, key]
    last = query if layout.ahead is None else query + layout.ahead[row, query]
    allowed = same & (layout.prefix[row, key] | (key <= last))
    if window is None:
        return allowed
    return allowed & ((layout.positions[row, query] - layout.positions[row, key]).abs() < window)


def attention_mask(layout: Layout, queries: Queries = slice(None), window: int | None = None) -> Tensor:
    """Dense form of `may_attend`: (B, Q, L) bool for Q queries, True where allowed."""
    rows, length = layout.segments.shape
    device = layout.segments.device
    row, column = torch.arange(rows, device=device), torch.arange(length, device=device)
    return may_attend(layout, row[:, None, None], column[queries][None, :, None], column[None, None, :], window)


def extend(layout: Layout, n: int, ahead: Tensor | None = None) -> Layout:
    """`layout` of right-aligned prompts with `n` suffix positions appended: all the positions decoding will use.

    `ahead` (n,): of the suffix, the same in all rows.
    """
    rows = layout.segments.shape[0]
    steps = torch.arange(1, n + 1, device=layout.positions.device)
    return Layout(
        torch.cat([layout.segments, layout.segments.new_ones(rows, n)], 1),
        torch.cat([layout.prefix, layout.prefix.new_zeros(rows, n)], 1),
        torch.cat([layout.positions, layout.positions[:, -1:] + steps], 1),
        None if ahead is None else torch.cat([torch.zeros_like(layout.positions), ahead.to(steps).expand(rows, n)], 1),
    )
