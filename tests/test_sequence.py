"""Layouts, packing and formatting, beside plain Python."""

from __future__ import annotations

import dataclasses
import pickle
import random

import pytest
import tiny
import torch

from unifluid.sequence import (
    TASKS,
    Batch,
    Example,
    Formatter,
    Segment,
    attention_mask,
    extend,
    first_fit,
    make_order,
    pack,
    pack_prompts,
    to_uint8,
    to_unit,
)

MODEL = tiny.model()
FORMATTER = tiny.formatter(MODEL)


def random_examples(seed: int, n: int) -> list[Example]:
    draw = random.Random(seed)
    made = []
    for i in range(n):
        task, words = draw.choice(TASKS), "".join(draw.choices("abc de", k=draw.randint(1, 20)))
        images = tuple(tiny.image(10 * i + k) for k in range(draw.randint(1, 2)))
        text = {"prompt": words, "question": words, "instruction": words}
        looked_at = None if task == "generate" else images
        target = tiny.image(10 * i + 9) if task in ("generate", "edit") else None
        made.append(Example(str(i), task, looked_at, target, caption=words[::-1], answers=(words[:3],), **text))
    return made


def segments_of(examples: list[Example], formatter: Formatter = FORMATTER) -> list[Segment]:
    return [formatter.segment(e, row) for row, e in enumerate(examples)]


# -- the attention rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_mask_is_the_rule(seed):
    batch = pack(segments_of(random_examples(seed, 7)), FORMATTER, 50)
    mask = attention_mask(batch.layout)
    rows, length = batch.layout.segments.shape
    for r in range(rows):
        segments, prefix = batch.layout.segments[r].tolist(), batch.layout.prefix[r].tolist()
        for q in range(length):
            for k in range(length):
                allowed = segments[q] == segments[k] and (prefix[k] or q >= k)
                assert mask[r, q, k].item() == allowed
    assert mask.diagonal(dim1=1, dim2=2).all()  # no softmax is empty
    assert torch.equal(attention_mask(batch.layout, 5, 9), mask[:, 5:9])


# -- packing --------------------------------------------------------------------------------------------------------


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
    segments = segments_of(random_examples(seed, 9))
    batch = pack(segments, FORMATTER, 64)
    assert sorted(found(batch).values()) == sorted(expected(s, FORMATTER) for s in segments)
    assert batch.layout.segments.shape[1] == max(64, *map(FORMATTER.length, segments))
    for i, row in enumerate(batch.target_rows):
        assert torch.equal(batch.targets[i], segments[row].target) and torch.equal(batch.orders[i], segments[row].order)
        assert batch.target_tasks[i] == segments[row].task
    assert batch.padding == pytest.approx((batch.layout.segments == 0).float().mean().item())


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_the_next_ids(seed):
    segments = segments_of(random_examples(seed, 9))
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


# -- formatting -----------------------------------------------------------------------------------------------------


def test_layouts_of_the_tasks():
    t, f = FORMATTER.tokenizer, FORMATTER
    generate, caption, answer, edit = segments_of(tiny.examples()[:4])
    assert generate.prefix_ids == [t.bos, *t.encode("a red circle"), t.separator] and not generate.images
    assert f.length(generate) == len(generate.prefix_ids) + f.num_target_tokens
    assert caption.suffix_ids == [*t.encode("two blue squares"), t.eos] and len(caption.images) == 1
    assert len(answer.images) == 2 and answer.prefix_ids == [t.bos, *t.encode("same?"), t.separator]
    assert f.prefix_length(answer) == 2 * f.num_image_tokens + len(answer.prefix_ids)
    assert f.length(answer) == f.prefix_length(answer) + len(answer.suffix_ids) - 1
    assert len(edit.images) == 1 and edit.prefix_ids[1:-1] == t.encode("make it green") and edit.target is not None
    assert generate.images == () and sorted(generate.order.tolist()) == list(range(f.num_target_tokens))


def test_a_prompt_is_the_prefix_of_its_segment():
    for example in tiny.examples():
        segment, prompt = FORMATTER.segment(example, 3), FORMATTER.prompt(example, 3)
        assert prompt.prefix_ids == segment.prefix_ids and len(prompt.images) == len(segment.images)
        assert prompt.suffix_ids == [] and prompt.target is None and prompt.order is None
    edit = tiny.examples()[3]
    assert FORMATTER.prompt(edit, text=False).prefix_ids == FORMATTER.prefix("")
    assert FORMATTER.prompt(edit, source=False).images == ()


def test_a_prompt_needs_no_target_and_no_answer():
    for task in TASKS:
        assert FORMATTER.prompt(Example("0", task, tiny.image(0), prompt="a", question="b", instruction="c")).prefix_ids


def test_long_texts_are_cut():
    f = tiny.formatter(MODEL, max_prefix=5, max_suffix=4)
    segment = f.segment(Example("0", "answer", tiny.image(0), question="q" * 50, answers=("a" * 50,)), 0)
    assert len(segment.prefix_ids) == 5 + 2 and len(segment.suffix_ids) == 4 + 1
    assert segment.suffix_ids[-1] == f.tokenizer.eos


def test_dropout_has_its_rates_and_spares_what_carries_text():
    f = tiny.formatter(MODEL, prompt_dropout=0.3, source_dropout=0.2)
    _, caption, _, edit, *_ = tiny.examples()
    null, n = f.prefix(""), 3000
    made = [f.segment(edit, row) for row in range(n)]
    no_text, no_source = ([s.prefix_ids == null for s in made], [s.images == () for s in made])
    both = [a and b for a, b in zip(no_text, no_source, strict=True)]
    for rate, dropped in ((0.3, no_text), (0.2, no_source), (0.06, both)):
        assert abs(sum(dropped) / n - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    assert all(f.segment(caption, row).images and f.segment(caption, row).prefix_ids != null for row in range(100))


def test_a_segment_is_a_function_of_seed_and_row():
    f, edit = tiny.formatter(MODEL, prompt_dropout=0.5), tiny.examples()[3]
    made = [f.segment(edit, row) for row in range(20)]
    again = [pickle.loads(pickle.dumps(f)).segment(edit, row) for row in reversed(range(20))][::-1]
    for a, b in zip(made, again, strict=True):
        assert a.prefix_ids == b.prefix_ids and torch.equal(a.order, b.order)
    assert len({tuple(s.order.tolist()) for s in made}) > 10
    other = dataclasses.replace(f, seed=1).segment(edit, 0)
    assert not torch.equal(other.order, made[0].order)


def test_orders():
    g = torch.Generator().manual_seed(0)
    assert make_order("raster", 4, g).tolist() == [0, 1, 2, 3]
    assert make_order([2, 0, 1], 3, g).tolist() == [2, 0, 1]
    firsts = [make_order("random", 4, g)[0].item() for _ in range(400)]
    assert all(60 < firsts.count(i) < 140 for i in range(4))
    for wrong in ([0, 0, 1], [0, 1], [1, 2, 3], "spiral"):
        with pytest.raises(ValueError, match="order must be"):
            make_order(wrong, 3, g)


def test_pixels_survive_there_and_back():
    image = torch.arange(192, dtype=torch.uint8).view(3, 8, 8)
    assert torch.equal(to_uint8(to_unit(image, 8)), image)
    assert to_unit(image, 5).shape == (3, 5, 5)
    constant = to_unit(torch.full((3, 9, 4), 255, dtype=torch.uint8), 8)
    assert (constant - 1).abs().max() < 1e-6 and constant.shape == (3, 8, 8)
    assert to_uint8(torch.tensor([-7.0, 7.0])).tolist() == [0, 255]
