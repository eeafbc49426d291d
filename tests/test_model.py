"""The model over packed batches: nothing leaks, nothing depends on what it is packed with, orders are only names."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
from torch import Tensor

from unifluid import randomness
from unifluid.decoding.prefix import prefill
from unifluid.heads.diffusion_mlp import DiffusionMLP
from unifluid.model import TokenLosses, UniFluidModel
from unifluid.packing import pack
from unifluid.sequence import Batch, Segment, round_sizes

COPIES = 3
MODEL = tiny.model()
FORMATTER = tiny.formatter(MODEL)
CAUSAL = dataclasses.replace(FORMATTER, causal_prefix=True)
SEGMENTS = [FORMATTER.segment(e, row) for row, e in enumerate(tiny.examples())]
BATCH = pack(SEGMENTS, FORMATTER, 48)


def image_tokens(model: UniFluidModel, batch: Batch) -> Tensor:
    return model.image_tokenizer.tokens(model.image_tokenizer.encode(batch.targets))


def draws(model: UniFluidModel, batch: Batch) -> tuple[Tensor, Tensor]:
    n, d = model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim
    u = randomness.uniform(0, batch.target_rows, "time", COPIES, n)
    return u, randomness.normal(0, batch.target_rows, "noise", COPIES, n, d)


def losses(model: UniFluidModel, batch: Batch, tokens: Tensor | None = None) -> TokenLosses:
    return model(batch, image_tokens(model, batch) if tokens is None else tokens, *draws(model, batch))


def hidden(model: UniFluidModel, batch: Batch, tokens: Tensor | None = None) -> Tensor:
    tokens = image_tokens(model, batch) if tokens is None else tokens
    ordered = tokens.gather(1, batch.orders[..., None].expand_as(tokens))
    return model.backbone(model.embed(batch, ordered), batch.layout)


def changed(before: Tensor, after: Tensor) -> set[tuple[int, int]]:
    """(row, column) of the positions that are not bit-identical."""
    return {tuple(p) for p in (before != after).any(-1).nonzero().tolist()}


def may_change(batch: Batch, positions: list[int]) -> set[tuple[int, int]]:
    """Positions that see one of the flat `positions`: the rule in plain Python."""
    segments, prefix = batch.layout.segments.tolist(), batch.layout.prefix.tolist()
    seen = set()
    for r, key in (divmod(p, len(segments[0])) for p in positions):
        for query, number in enumerate(segments[r]):
            if number == segments[r][key] and (prefix[r][key] or key <= query):
                seen.add((r, query))
    return seen


@torch.no_grad()
def test_errors_are_read_and_not_predicted():
    """A token with an error changes what is predicted from it on, as the same token would; its own target is clean."""
    tokens, orders = image_tokens(MODEL, BATCH), BATCH.orders
    errors = torch.zeros_like(tokens)
    place = tokens.shape[1] // 2
    errors[:, place] = 0.5
    before = losses(MODEL, BATCH).image
    after = MODEL(BATCH, tokens, *draws(MODEL, BATCH), errors).image
    same = (before == after).all(1)
    assert same[:, : place + 1].all() and not same[:, place + 1 :].any()
    wrong = tokens.scatter_add(1, orders[..., None].expand_as(tokens), errors)
    expected = losses(MODEL, BATCH, wrong).image
    assert torch.allclose(after[:, :, place + 1 :], expected[:, :, place + 1 :], atol=1e-6)


# -- no leaks -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_text_reaches_those_who_may_see_it():
    before = hidden(MODEL, BATCH)
    for i, position in enumerate(BATCH.text_index.tolist()):
        ids = BATCH.text_ids.clone()
        ids[i] = (ids[i] + 1) % MODEL.backbone.vocab_size
        after = hidden(MODEL, dataclasses.replace(BATCH, text_ids=ids))
        assert changed(before, after) == may_change(BATCH, [position])


@torch.no_grad()
def test_a_causal_prefix_sees_what_came_before():
    batch = pack(SEGMENTS, CAUSAL, 48)
    before = hidden(MODEL, batch)
    for i, position in enumerate(batch.text_index.tolist()):
        ids = batch.text_ids.clone()
        ids[i] = (ids[i] + 1) % MODEL.backbone.vocab_size
        row, column = divmod(position, before.shape[1])
        own = batch.layout.segments[row] == batch.layout.segments[row, column]
        later = {(row, k) for k in own.nonzero().flatten().tolist() if k >= column}
        assert changed(before, hidden(MODEL, dataclasses.replace(batch, text_ids=ids))) == later


@torch.no_grad()
def test_images_reach_those_who_may_see_them():
    before = hidden(MODEL, BATCH)
    for i in range(len(BATCH.images)):
        images = BATCH.images.clone()
        images[i] = -images[i]
        after = hidden(MODEL, dataclasses.replace(BATCH, images=images))
        assert changed(before, after) == may_change(BATCH, BATCH.image_index[i].tolist())


@torch.no_grad()
def test_image_tokens_reach_later_places_of_their_order_only():
    tokens = image_tokens(MODEL, BATCH)
    before = hidden(MODEL, BATCH, tokens)
    for i, order in enumerate(BATCH.orders.tolist()):
        for place, token in enumerate(order):
            other = tokens.clone()
            other[i, token] += 1
            after = hidden(MODEL, BATCH, other)
            length = before.shape[1]
            later = {divmod(p, length) for p in BATCH.target_index[i].tolist()[place + 1 :]}
            assert changed(before, after) == later


@torch.no_grad()
def test_a_token_is_predicted_without_seeing_it():
    """Text: an answer's loss at its first k tokens cannot depend on token k + 1."""
    before = losses(MODEL, BATCH).text
    for i, position in enumerate(BATCH.text_index.tolist()):
        if not BATCH.layout.prefix.flatten()[position]:
            ids = BATCH.text_ids.clone()
            ids[i] = (ids[i] + 1) % MODEL.backbone.vocab_size
            after = losses(MODEL, dataclasses.replace(BATCH, text_ids=ids)).text
            seen = {r * BATCH.layout.segments.shape[1] + c for r, c in may_change(BATCH, [position])}
            assert [p in seen for p in BATCH.label_index.tolist()] == (before != after).tolist()


# -- packing and batching -------------------------------------------------------------------------------------------


def alone(segment: Segment) -> Batch:
    return pack([segment], FORMATTER, 1)


@pytest.mark.parametrize("row_length", [1, 48, 200])
@torch.no_grad()
def test_losses_are_those_of_each_segment_alone(row_length):
    batch = pack(SEGMENTS, FORMATTER, row_length)
    made = losses(MODEL, batch)
    for i, row in enumerate(batch.target_rows):
        assert (losses(MODEL, alone(SEGMENTS[row])).image[0] - made.image[i]).abs().max() <= 1e-5
    texts = {tuple(s.suffix_ids): s for s in SEGMENTS if s.order is None}
    for i in range(len(batch.text_tasks)):
        chosen = batch.label_example == i
        segment = texts[tuple(batch.labels[chosen].tolist())]
        assert (losses(MODEL, alone(segment)).text - made.text[chosen]).abs().max() <= 1e-5


@torch.no_grad()
def test_losses_have_the_shapes_promised():
    made = losses(MODEL, BATCH)
    assert made.text.shape == BATCH.labels.shape
    assert made.image.shape == (3, COPIES, MODEL.image_tokenizer.num_tokens)


@pytest.mark.parametrize("kept", ["generate", "caption"])
def test_a_batch_may_lack_a_task(kept):
    """Every parameter still takes part, with weight zero: DDP waits for each."""
    batch = pack([s for s in SEGMENTS if s.task == kept], FORMATTER, 48)
    made = losses(MODEL, batch)
    assert (made.text.numel() > 0) == (kept == "caption") and (made.image.numel() > 0) == (kept == "generate")
    (made.text.sum() + made.image.sum()).backward()
    assert [n for n, p in MODEL.named_parameters() if p.requires_grad and p.grad is None] == []
    MODEL.zero_grad()


# -- the cache ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formatter", [FORMATTER, CAUSAL])
@pytest.mark.parametrize("chunk", [1, 2, 100])
@torch.no_grad()
def test_a_text_suffix_through_the_cache(chunk, formatter):
    full = hidden(MODEL, pack(SEGMENTS, formatter, 48)).flatten(0, 1)
    texts = [s for s in SEGMENTS if s.order is None]
    ids = [s.suffix_ids[:-1] for s in texts]
    room = max(map(len, ids))
    h, cache = prefill(MODEL, formatter, texts, room)
    x = MODEL.backbone.embed(torch.tensor([i + [0] * (room - len(i)) for i in ids]))
    parts = [MODEL.backbone(part, cache.layout, cache) for part in x.split(chunk, dim=1)]
    h = torch.cat([h[:, None], *parts], 1)
    for row, segment in enumerate(texts):
        example = next(
            e for e in range(len(texts)) if BATCH.labels[BATCH.label_example == e].tolist() == segment.suffix_ids
        )
        expected = full[BATCH.label_index[BATCH.label_example == example]]
        assert (h[row, : len(segment.suffix_ids)] - expected).abs().max() <= 1e-5


@torch.no_grad()
def test_an_image_suffix_through_the_cache_place_by_place():
    tokens, full = image_tokens(MODEL, BATCH), hidden(MODEL, BATCH).flatten(0, 1)
    drawn = [SEGMENTS[row] for row in BATCH.target_rows]
    n = MODEL.image_tokenizer.num_tokens
    _, cache = prefill(MODEL, FORMATTER, drawn, n)
    for k in range(n):
        last = None if k == 0 else tokens[torch.arange(len(drawn)), BATCH.orders[:, k - 1]][:, None]
        h = MODEL.backbone(MODEL.next_inputs(BATCH.orders, k, last), cache.layout, cache)
        assert (h[:, 0] - full[BATCH.target_index[:, k]]).abs().max() <= 1e-5


@torch.no_grad()
def test_inputs_by_hand():
    order, tokens = BATCH.orders, image_tokens(MODEL, BATCH)
    own, following = MODEL.own_position.flatten(0, 1), MODEL.next_position.flatten(0, 1)
    ordered = torch.stack([t[o] for t, o in zip(tokens, order, strict=True)])
    made = MODEL.target_inputs(ordered, order)
    for i, o in enumerate(order.tolist()):
        assert torch.allclose(made[i, 0], MODEL.boi + following[o[0]], atol=1e-6)
        for k in range(1, len(o)):
            token = MODEL.token_projection(tokens[i, o[k - 1]])
            assert torch.allclose(made[i, k], token + own[o[k - 1]] + following[o[k]], atol=1e-5)


# -- orders ---------------------------------------------------------------------------------------------------------


def renamed(model: UniFluidModel, names: Tensor) -> UniFluidModel:
    """A copy whose grid position names[i] is this model's position i."""
    copy = tiny.model()
    copy.load_state_dict(model.state_dict())
    for table, original in (
        (copy.own_position, model.own_position),
        (copy.next_position, model.next_position),
    ):
        table.data.flatten(0, 1)[names] = original.data.flatten(0, 1)
    return copy


@torch.no_grad()
def test_a_permuted_order_with_permuted_targets_gives_the_permuted_result():
    names = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    tokens = image_tokens(MODEL, BATCH)
    permuted = torch.empty_like(tokens)
    permuted[:, names] = tokens
    other = dataclasses.replace(BATCH, orders=names[BATCH.orders])
    expected, made = losses(MODEL, BATCH, tokens), losses(renamed(MODEL, names), other, permuted)
    assert torch.equal(made.image, expected.image) and torch.equal(made.text, expected.text)
    assert not torch.equal(losses(MODEL, other, permuted).image, expected.image)


@torch.no_grad()
def test_place_k_is_charged_for_token_order_k():
    tokens, (u, noise) = image_tokens(MODEL, BATCH), draws(MODEL, BATCH)
    h, made = hidden(MODEL, BATCH).flatten(0, 1), losses(MODEL, BATCH).image
    head = MODEL.image_head
    for i, order in enumerate(BATCH.orders.tolist()):
        for k, token in enumerate(order):
            z, t = h[BATCH.target_index[i, k]], head.times(u[i, :, k])
            loss = head.loss(z[None], tokens[i, token][None], t[:, None], noise[i, :, k, None])
            assert (loss[:, 0] - made[i, :, k]).abs().max() <= 1e-5


# -- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [None, DiffusionMLP])
def test_everything_but_the_image_tokenizer_learns(head):
    model = tiny.model(**({"head": head} if head else {}))
    assert not any(p.requires_grad for p in model.image_tokenizer.parameters())
    model.train()
    assert not model.image_tokenizer.training and model.backbone.training
    made = losses(model, BATCH)
    (made.text.mean() + made.image.mean()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_image_tokens_start_at_the_size_asked_for():
    torch.manual_seed(0)
    small, large = tiny.model(token_scale=0.1), tiny.model(token_scale=1.0)
    for name in ("boi", "token_projection.weight"):
        ratio = small.get_parameter(name).square().mean() / large.get_parameter(name).square().mean()
        assert 0.005 < ratio < 0.02


@torch.no_grad()
def test_in_rounds_a_place_sees_tokens_of_earlier_rounds_only():
    formatter = dataclasses.replace(FORMATTER, rounds=(4,))
    examples = [e for e in tiny.examples() if e.response is None]
    batch = pack([formatter.segment(e, row) for row, e in enumerate(examples)], formatter, 40)
    number = torch.arange(4).repeat_interleave(torch.tensor(round_sizes(9, 4)))
    tokens = torch.randn(len(examples), 9, MODEL.image_tokenizer.token_dim)
    h = predicting(batch, tokens)
    for k in range(9):
        changed = tokens.clone()
        changed[:, k] += 1
        moved = (predicting(batch, changed) - h).abs().amax(-1) > 1e-6  # (targets, places)
        assert moved.equal((number > number[k]).expand(len(examples), -1))


def predicting(batch: Batch, ordered: Tensor) -> Tensor:
    """Hidden states (n_targets, N, D) that image tokens are predicted from."""
    return MODEL.backbone(MODEL.embed(batch, ordered), batch.layout).flatten(0, 1)[batch.target_index]
