"""From segments to batches: several segments share a row of L positions, and every index of a `Batch` follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unifluid.layout import Layout
from unifluid.sequence import Batch, Example, Formatter, Segment, Task


def first_fit(lengths: list[int], capacity: int) -> list[list[tuple[int, int]]]:
    """Pack items into rows of `capacity`, longest first -> for each row its (item, start) pairs.

    An item longer than `capacity` gets a row of its own; the caller's rows are as long as the longest.
    """
    rows: list[list[tuple[int, int]]] = []
    used: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, n in enumerate(used) if n + lengths[item] <= capacity), None)
        if row is None:
            row = len(rows)
            rows.append([])
            used.append(0)
        rows[row].append((item, used[row]))
        used[row] += lengths[item]
    return rows


def tightest_fit(lengths: list[int], capacity: int) -> tuple[list[list[tuple[int, int]]], int]:
    """`first_fit` into rows of `capacity` to half as much again, with the least padding -> rows, their length.

    The length is that of the fullest row, shorter than `capacity` where nothing needs it.
    """
    capacity, total = max([capacity, *lengths]), sum(lengths)
    best: tuple[list[list[tuple[int, int]]], int] = [[]], capacity  # no items are a row of padding: ranks go in step
    least = None
    for wider in range(capacity, capacity * 3 // 2 + 1, max(1, capacity // 32)):
        rows = first_fit(lengths, wider)
        length = max((sum(lengths[i] for i, _ in row) for row in rows), default=capacity)
        if rows and (least is None or len(rows) * length < least):
            best, least = (rows, length), len(rows) * length
            if least - total <= total // 100:
                break
    return best


def pack(
    segments: list[Segment],
    formatter: Formatter,
    row_length: int,
    text_rows_in_step: float | None = None,
    image_rows_in_step: float | None = None,
) -> Batch:
    """Training batch: `segments` packed into rows of about `row_length` positions (`tightest_fit`).

    The two counts normalise the losses over a whole optimizer step; None means that this batch is the step.
    """
    rows, row_length = tightest_fit([formatter.length(s) for s in segments], row_length)
    placed = [(segments[i], r, start, k + 1) for r, row in enumerate(rows) for k, (i, start) in enumerate(row)]
    batch = _assemble(placed, formatter, len(rows), row_length, lengths=formatter.length)
    text = sum(s.order is None for s in segments)
    batch.text_rows_in_step = text if text_rows_in_step is None else text_rows_in_step
    batch.image_rows_in_step = len(segments) - text if image_rows_in_step is None else image_rows_in_step
    return batch


def pack_prompts(segments: list[Segment], formatter: Formatter, multiple: int = 1) -> Batch:
    """Prefixes only, one a row, right-aligned so that every suffix starts at the same column. Suffixes are ignored.

    Rows are as long as the longest prefix, rounded up to a `multiple`.
    """
    lengths = [formatter.prefix_length(s) for s in segments]
    longest = -(-max(lengths) // multiple) * multiple
    bare = [dataclasses.replace(s, suffix_ids=[], order=None, rounds=None, target=None, moments=None) for s in segments]
    placed = [(s, r, longest - n, 1) for r, (s, n) in enumerate(zip(bare, lengths, strict=True))]
    return _assemble(placed, formatter, len(segments), longest, lengths=formatter.prefix_length)


@dataclass
class Collate:
    """(global row, example) pairs -> one packed batch. Picklable: runs in loader workers."""

    formatter: Formatter
    row_length: int
    text_rows_in_step: float | None = None
    image_rows_in_step: float | None = None

    def __call__(self, rows: list[tuple[int, Example]]) -> Batch:
        segments = [self.formatter.segment(example, row) for row, example in rows]
        batch = pack(segments, self.formatter, self.row_length, self.text_rows_in_step, self.image_rows_in_step)
        batch.ids = [example.id for _, example in rows]
        return batch


def _assemble(
    placed: list[tuple[Segment, int, int, int]],
    formatter: Formatter,
    rows: int,
    length: int,
    lengths: Callable[[Segment], int],
) -> Batch:
    """Fill a batch from (segment, row, start column, number within the row)."""
    grid = torch.zeros(4, rows, length, dtype=torch.long)  # segments, prefix, positions, ahead
    spans: list[tuple[Segment, Tensor]] = []  # each with its flat positions
    for segment, row, start, number in placed:
        n = lengths(segment)
        grid[0, row, start : start + n] = number
        if not formatter.causal_prefix:
            grid[1, row, start : start + formatter.prefix_length(segment)] = 1
        grid[2, row, start : start + n] = torch.arange(n)
        if segment.rounds is not None:
            grid[3, row, start + formatter.prefix_length(segment) : start + n] = formatter.round_layout(segment)[1]
        spans.append((segment, row * length + start + torch.arange(n)))
    in_rounds = any(segment.rounds is not None for segment, *_ in placed)
    layout = Layout(grid[0], grid[1].bool(), grid[2], grid[3] if in_rounds else None)
    return Batch(layout=layout, **_texts(spans, formatter), **_pictures(spans, formatter))


def _texts(spans: list[tuple[Segment, Tensor]], formatter: Formatter) -> dict[str, Any]:
    """A batch's text ids and labels. An id of a suffix is the label of the position before it."""
    ids: list[int] = []
    index = [torch.zeros(0, dtype=torch.long)]
    labels: list[int] = []
    label_index = [torch.zeros(0, dtype=torch.long)]
    label_weight: list[float] = []
    label_example: list[int] = []
    tasks: list[Task] = []
    for segment, where in spans:
        features, prefix = len(segment.images) * formatter.num_image_tokens, formatter.prefix_length(segment)
        ids += segment.prefix_ids
        index.append(where[features:prefix])
        if segment.order is None and segment.suffix_ids:
            n = len(segment.suffix_ids)
            ids += segment.suffix_ids[:-1]
            index.append(where[prefix:])
            labels += segment.suffix_ids
            label_index.append(where[prefix - 1 :])
            label_weight += [1 / n] * n
            label_example += [len(tasks)] * n
            tasks.append(segment.task)
    return {
        "text_ids": torch.tensor(ids, dtype=torch.long),
        "text_index": torch.cat(index),
        "labels": torch.tensor(labels, dtype=torch.long),
        "label_index": torch.cat(label_index),
        "label_weight": torch.tensor(label_weight),
        "label_example": torch.tensor(label_example, dtype=torch.long),
        "text_tasks": tasks,
        "text_rows_in_step": len(tasks),
    }


def _pictures(spans: list[tuple[Segment, Tensor]], formatter: Formatter) -> dict[str, Any]:
    """A batch's pictures: those to look at, and those to draw or their moments."""
    seen, drawn = formatter.num_image_tokens, formatter.num_target_tokens
    images = [image for s, _ in spans for image in s.images]
    index = [part for s, where in spans for part in where[: len(s.images) * seen].view(-1, seen)]
    targets = [(s, where[formatter.prefix_length(s) :]) for s, where in spans if s.order is not None]
    targets.sort(key=lambda target: target[0].moments is not None)  # stable: pictures first
    pictures = [s.target for s, _ in targets if s.moments is None]
    moments = [s.moments for s, _ in targets if s.moments is not None]
    none, size, target_size = torch.zeros(0, dtype=torch.long), formatter.image_size, formatter.target_size
    return {
        "images": torch.stack(images) if images else torch.zeros(0, 3, size, size),
        "image_index": torch.stack(index) if images else none.view(0, seen),
        "targets": torch.stack(pictures) if pictures else torch.zeros(0, 3, target_size, target_size),
        "moments": torch.stack(moments) if moments else None,
        "target_index": torch.stack([where for _, where in targets]) if targets else none.view(0, drawn),
        "orders": torch.stack([s.order for s, _ in targets]) if targets else none.view(0, drawn),
        "carried": _carried([s for s, _ in targets], formatter),
        "target_rows": [s.row for s, _ in targets],
        "target_tasks": [s.task for s, _ in targets],
        "image_rows_in_step": len(targets),
    }


def _carried(targets: list[Segment], formatter: Formatter) -> Tensor | None:
    if all(segment.rounds is None for segment in targets):
        return None
    return torch.stack([formatter.round_layout(segment)[0] for segment in targets])
