"""Packing, beside plain Python: what is in a batch is what was in its segments."""

from __future__ import annotations

import dataclasses
import pickle
import random

import pytest
import tiny
import torch

from unifluid.layout import extend
from unifluid.packing import first_fit, pack, pack_prompts, tightest_fit
from unifluid.sequence import Batch, Example, Formatter, Segment

MODEL = tiny.model()
FORMATTER = tiny.formatter(MODEL)


def segments_of(examples: list[Example]) -> list[Segment]:
    return [FORMATTER.segment(e, row) for row, e in enumerate(examples)]


def expected(segment: Segment, formatter: Formatter) -> list[tuple]:
    """What stands at each position of a segment: (what, is it prefix)."""
    items = [
        (("feature", tuple(i.flatten().tolist()), j), True)
        for i in segment.images
        for j in range(formatter.num_image_tokens)
    ]
    items += [(("id", i), True) for i in segment.prefix_ids]
    items += [(("id", i), False) for i in segment.suffix_ids[:-1]]
    if segment.order is not None:
        items += [(("place", segment.row, k), False) for k in range(len(segment.order))]
    return items


def found(batch: Batch) -> dict[tuple[int, int], list[tuple]]:
    """The same, read off a batch: (row, segment number) -> items in the order of their positions."""
    length = batch.layout.segments.shape[1]
    at: dict[int, tuple] = {
        p: ("id", i) for p, i in zip(batch.text_index.tolist(), batch.text_ids.tolist(), strict=True)
    }
    for i, where in enumerate(batch.image_index.tolist()):
        at |= {p: ("feature", tuple(batch.images[i].flatten().tolist()), j) for j, p in enumerate(where)}
    for i, where in enumerate(batch.target_index.tolist()):
        at |= {p: ("place", batch.target_rows[i], k) for k, p in enumerate(where)}
    assert len(at) == len(batch.text_index) + batch.image_index.numel() + batch.target_index.numel()
    groups: dict[tuple[int, int], dict[int, tuple]] = {}
    for p, item in at.items():
        r, c = divmod(p, length)
        number = batch.layout.segments[r, c].item()
        assert number > 0
        group = groups.setdefault((r, number), {})
        group[batch.layout.positions[r, c].item()] = (item, batch.layout.prefix[r, c].item())
    assert (batch.layout.segments > 0).sum() == len(at)
    for group in groups.values():
        assert sorted(group) == list(range(len(group)))
    return {key: [group[i] for i in range(len(group))] for key, group in groups.items()}


@pytest.mark.parametrize("seed", range(5))
def test_every_segment_is_packed_once_and_whole(seed):
    segments = segments_of(tiny.random_examples(seed, 9))
    batch = pack(segments, FORMATTER, 64)
    assert sorted(found(batch).values()) == sorted(expected(s, FORMATTER) for s in segments)
    lengths = [FORMATTER.length(segment) for segment in segments]
    assert max(lengths) <= batch.layout.segments.shape[1] <= 1.5 * max(64, *lengths)
    for i, row in enumerate(batch.target_rows):
        assert torch.equal(batch.targets[i], segments[row].target) and torch.equal(batch.orders[i], segments[row].order)
        assert batch.target_tasks[i] == segments[row].task
    assert batch.padding == pytest.approx((batch.layout.segments == 0).float().mean().item())


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_the_next_ids(seed):
    segments = segments_of(tiny.random_examples(seed, 9))
    batch = pack(segments, FORMATTER, 64)
    ids = dict(zip(batch.text_index.tolist(), batch.text_ids.tolist(), strict=True))
    eos = FORMATTER.tokenizer.eos
    answers: dict[int, list[int]] = {}
    for p, label, example in zip(
        batch.label_index.tolist(), batch.labels.tolist(), batch.label_example.tolist(), strict=True
    ):
        if label != eos:
            assert ids[p + 1] == label
        answers.setdefault(example, []).append(label)
    texts = [s for s in segments if s.order is None]
    assert sorted(answers.values()) == sorted(s.suffix_ids for s in texts)
    sums = torch.zeros(len(texts)).index_add(0, batch.label_example, batch.label_weight)
    assert (sums - 1).abs().max() < 1e-6 if texts else True
    tasks = {tuple(s.suffix_ids): s.task for s in texts}
    assert [tasks[tuple(answers[i])] for i in range(len(texts))] == batch.text_tasks
    assert batch.text_rows_in_step == len(texts) and batch.image_rows_in_step == len(segments) - len(texts)


def test_counts_of_the_step_are_kept():
    batch = pack(segments_of(tiny.examples()), FORMATTER, 64, text_rows_in_step=30, image_rows_in_step=40)
    assert (batch.text_rows_in_step, batch.image_rows_in_step) == (30, 40)


def test_prompts_are_aligned_to_the_right():
    segments = segments_of(tiny.examples())
    batch = pack_prompts(segments, FORMATTER)
    bare = [dataclasses.replace(s, suffix_ids=[], order=None) for s in segments]
    assert {key[0]: items for key, items in found(batch).items()} == {
        i: expected(s, FORMATTER) for i, s in enumerate(bare)
    }
    assert batch.layout.segments[:, -1].all() and batch.layout.prefix[:, -1].all()
    assert len(batch.labels) == len(batch.targets) == 0

    layout = extend(batch.layout, 3)
    length = batch.layout.segments.shape[1]
    assert torch.equal(layout.segments[:, :length], batch.layout.segments) and layout.segments[:, length:].eq(1).all()
    assert not layout.prefix[:, length:].any()
    for row, s in zip(layout.positions.tolist(), segments, strict=True):
        n = FORMATTER.prefix_length(s)
        assert row[length - n :] == list(range(n + 3))


@pytest.mark.parametrize("seed", range(10))
def test_first_fit(seed):
    draw = random.Random(seed)
    lengths, capacity = [draw.randint(1, 30) for _ in range(draw.randint(1, 40))], 32
    rows = first_fit(lengths, capacity)
    assert sorted(item for row in rows for item, _ in row) == list(range(len(lengths)))
    for row in rows:
        spans = sorted((start, start + lengths[item]) for item, start in row)
        assert spans[0][0] == 0 and spans[-1][1] <= capacity
        assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))
    used = sorted(sum(lengths[item] for item, _ in row) for row in rows)
    assert len(used) < 2 or used[0] + used[1] > capacity  # no two rows would fit into one


def test_an_item_too_long_gets_its_own_row():
    assert first_fit([5, 40, 6], 32) == [[(1, 0)], [(2, 0), (0, 6)]]


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_as_long_as_wastes_least(seed):
    draw = random.Random(seed)
    lengths = [draw.randint(16, 60) for _ in range(64)]
    rows, length = tightest_fit(lengths, 64)
    placed = [(i, start, start + lengths[i], r) for r, row in enumerate(rows) for i, start in row]
    assert sorted(i for i, *_ in placed) == list(range(64))
    assert max(stop for _, _, stop, _ in placed) == length <= 96
    plain = len(first_fit(lengths, 64)) * 64
    assert len(rows) * length <= plain
    assert 1 - sum(lengths) / (len(rows) * length) < 0.06


def test_rows_are_no_longer_than_their_fullest():
    assert tightest_fit([5, 6], 64) == ([[(1, 0), (0, 6)]], 11)
    assert tightest_fit([70, 3], 64)[1] >= 70
    assert tightest_fit([], 64) == ([[]], 64)


@pytest.mark.parametrize("kept", [slice(None), slice(1, 3), slice(4, 5), slice(0, 0)], ids=["all", "text", "image", ""])
def test_a_batch_goes_to_another_process_as_one_tensor(kept):
    """And comes out as it went in, whatever it holds: all tasks, texts only, pictures only, nothing."""
    segments = segments_of(tiny.examples()[kept])
    if len(segments) > 2:  # stored beforehand, in half precision, an odd number of them
        segments[0] = dataclasses.replace(segments[0], target=None, moments=torch.randn(3).half())
    batch = pack(segments, FORMATTER, 32)
    assert sum(isinstance(value, torch.Tensor) for value in batch.__getstate__()) == 1
    again = pickle.loads(pickle.dumps(batch))
    for name, value in (vars(batch) | vars(batch.layout)).items():
        other = getattr(again.layout, name) if hasattr(again.layout, name) else getattr(again, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other) and value.dtype == other.dtype and value.shape == other.shape, name
        elif name != "layout":
            assert value == other, name
