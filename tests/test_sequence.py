"""The attention rule and what an example becomes, beside plain Python."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import tiny
import torch

from unifluid.layout import attention_mask
from unifluid.packing import pack
from unifluid.sequence import (
    TASKS,
    Example,
    Formatter,
    Segment,
    make_order,
    round_layout,
    round_sizes,
    to_uint8,
    to_unit,
)

MODEL = tiny.model()
FORMATTER = tiny.formatter(MODEL)


def segments_of(examples: list[Example], formatter: Formatter = FORMATTER) -> list[Segment]:
    return [formatter.segment(e, row) for row, e in enumerate(examples)]


# -- the attention rule ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_mask_is_the_rule(seed):
    batch = pack(segments_of(tiny.random_examples(seed, 7)), FORMATTER, 50)
    mask = attention_mask(batch.layout)
    rows, length = batch.layout.segments.shape
    for r in range(rows):
        segments, prefix = batch.layout.segments[r].tolist(), batch.layout.prefix[r].tolist()
        for q in range(length):
            for k in range(length):
                allowed = segments[q] == segments[k] and (prefix[k] or q >= k)
                assert mask[r, q, k].item() == allowed
    assert mask.diagonal(dim1=1, dim2=2).all()  # no softmax is empty
    assert torch.equal(attention_mask(batch.layout, slice(5, 9)), mask[:, 5:9])


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


@pytest.mark.parametrize(("n", "rounds"), [(256, 64), (16, 5), (9, 4), (9, 9), (9, 1), (2, 2), (1, 1), (100, 99)])
def test_rounds_grow_by_the_cosine(n, rounds):
    sizes = round_sizes(n, rounds)
    assert len(sizes) == rounds and sum(sizes) == n and sizes == sorted(sizes) and sizes[0] >= 1
    drawn = 0
    for i, size in enumerate(sizes[:-1], 1):
        drawn += size
        assert drawn <= n * (1 - math.cos(math.pi / 2 * i / rounds)) + i  # a token at least in each round


@pytest.mark.parametrize("rounds", [0, 10])
def test_rounds_no_image_has_are_refused(rounds):
    with pytest.raises(ValueError, match=f"an image of 9 tokens is drawn in 1 to 9 rounds, not {rounds}"):
        round_sizes(9, rounds)


def test_places_of_a_round_carry_the_tokens_of_the_one_before():
    carried, ahead = round_layout([1, 2, 2, 4])
    assert carried.tolist() == [-1, 0, -1, 1, 2, 3, 4, -1, -1]
    assert ahead.tolist() == [0, 1, 0, 1, 0, 3, 2, 1, 0]
    carried, ahead = round_layout([1] * 5)
    assert carried.tolist() == [-1, 0, 1, 2, 3] and not ahead.any()


def test_each_image_of_training_takes_one_of_the_rounds():
    formatter = tiny.formatter(tiny.model(), rounds=(2, 4, 9))
    example = next(e for e in tiny.examples() if e.task == "generate")
    taken = [formatter.segment(example, row).rounds for row in range(60)]
    assert taken == [formatter.segment(example, row).rounds for row in range(60)]
    assert {n: taken.count(n) > 8 for n in (2, 4, 9)} == {2: True, 4: True, 9: True}
