"""From segments to batches: several segments share a row of L positions, and every index of a `Batch` follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unifluid.sequence import Batch, Example, Formatter, Layout, Segment, Task


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


def pack(
    segments: list[Segment],
    formatter: Formatter,
    row_length: int,
    text_rows_in_step: float | None = None,
    image_rows_in_step: float | None = None,
) -> Batch:
    """Training batch: `segments` packed into rows of `row_length` positions (more if one segment is longer).

    The two counts normalise the losses over a whole optimizer step; None means that this batch is the step.
    """
    lengths = [formatter.length(s) for s in segments]
    row_length = max(row_length, *lengths)
    rows = first_fit(lengths, row_length)
    placed = [(segments[i], r, start, k + 1) for r, row in enumerate(rows) for k, (i, start) in enumerate(row)]
    batch = _assemble(placed, formatter, len(rows), row_length, lengths=formatter.length)
    text = sum(s.order is None for s in segments)
    batch.text_rows_in_step = text if text_rows_in_step is None else text_rows_in_step
    batch.image_rows_in_step = len(segments) - text if image_rows_in_step is None else image_rows_in_step
    return batch


def pack_prompts(segments: list[Segment], formatter: Formatter) -> Batch:
    """Prefixes only, one a row, right-aligned so that every suffix starts at the same column. Suffixes are ignored."""
    lengths = [formatter.prefix_length(s) for s in segments]
    longest = max(lengths)
    bare = [dataclasses.replace(s, suffix_ids=[], order=None, target=None) for s in segments]
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
    grid = torch.zeros(3, rows, length, dtype=torch.long)  # segments, prefix, positions
    text_ids: list[int] = []
    text_index: list[Tensor] = []
    image_index: list[Tensor] = []
    target_index: list[Tensor] = []
    label_index: list[Tensor] = []
    label_weight: list[float] = []
    labels: list[int] = []
    label_example: list[int] = []
    text_tasks: list[Task] = []
    for segment, row, start, number in placed:
        n, prefix = lengths(segment), formatter.prefix_length(segment)
        grid[0, row, start : start + n] = number
        grid[1, row, start : start + prefix] = 1
        grid[2, row, start : start + n] = torch.arange(n)
        flat = torch.arange(row * length + start, row * length + start + n)
        features = len(segment.images) * formatter.num_image_tokens
        image_index += flat[:features].split(formatter.num_image_tokens) if features else ()
        text_ids += segment.prefix_ids
        text_index.append(flat[features:prefix])
        if segment.order is not None:
            target_index.append(flat[prefix:])
        elif segment.suffix_ids:
            text_ids += segment.suffix_ids[:-1]
            text_index.append(flat[prefix:])
            label_index.append(flat[prefix - 1 :])
            labels += segment.suffix_ids
            label_weight += [1 / len(segment.suffix_ids)] * len(segment.suffix_ids)
            label_example += [len(text_tasks)] * len(segment.suffix_ids)
            text_tasks.append(segment.task)
    drawn = [s for s, *_ in placed if s.order is not None]
    images = [image for s, *_ in placed for image in s.images]
    no_index, size, target_size = torch.zeros(0, dtype=torch.long), formatter.image_size, formatter.target_size
    return Batch(
        layout=Layout(grid[0], grid[1].bool(), grid[2]),
        text_ids=torch.tensor(text_ids, dtype=torch.long),
        text_index=torch.cat([no_index, *text_index]),
        images=torch.stack(images) if images else torch.zeros(0, 3, size, size),
        image_index=torch.stack(image_index) if images else no_index.view(0, formatter.num_image_tokens),
        targets=torch.stack([s.target for s in drawn]) if drawn else torch.zeros(0, 3, target_size, target_size),
        target_index=torch.stack(target_index) if drawn else no_index.view(0, formatter.num_target_tokens),
        orders=torch.stack([s.order for s in drawn]) if drawn else no_index.view(0, formatter.num_target_tokens),
        target_rows=[s.row for s in drawn],
        label_index=torch.cat([no_index, *label_index]),
        labels=torch.tensor(labels, dtype=torch.long),
        label_weight=torch.tensor(label_weight),
        label_example=torch.tensor(label_example, dtype=torch.long),
        text_tasks=text_tasks,
        target_tasks=[s.task for s in drawn],
        text_rows_in_step=len(text_tasks),
        image_rows_in_step=len(drawn),
    )
