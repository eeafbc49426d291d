"""Image decoding beside full recomputation of one image at a time, without cache."""

from __future__ import annotations

import dataclasses
from itertools import accumulate

import pytest
import tiny
import torch
from torch import Tensor

from unifluid import randomness
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.sampling import drawn_with
from unifluid.heads.diffusion_mlp import DiffusionMLP
from unifluid.heads.flow_mlp import FlowMLP
from unifluid.model import UniFluidModel
from unifluid.packing import pack
from unifluid.sequence import Example, Formatter, make_order, round_sizes, to_unit

EXAMPLES = [e for e in tiny.examples() if e.response is None]  # prompts of several lengths, and an edit
PLAIN = ImageSampling(steps=4)
GUIDED = ImageSampling(steps=4, guidance=2.0, source_guidance=1.5, schedule="linear", temperature=0.9)


@pytest.fixture(scope="module", params=[FlowMLP, DiffusionMLP], ids=lambda head: head.__name__)
def model(request) -> UniFluidModel:
    return tiny.model(head=request.param)


@pytest.fixture(scope="module")
def formatter(model) -> Formatter:
    return tiny.formatter(model)


def drawn_tokens(monkeypatch, model, formatter, examples, sampling, seed=0, **arguments) -> Tensor:
    """The image tokens (n, N, d) that `generate_images` decodes to pixels."""
    seen, decode = [], model.image_tokenizer.decode
    with monkeypatch.context() as patch:
        patch.setattr(model.image_tokenizer, "decode", lambda tokens: seen.append(tokens) or decode(tokens))
        generate_images(model, formatter, examples, sampling, seed, **arguments)
    return torch.cat(seen)


def prompt(example: Example, text: bool, source: bool) -> Example:
    changed = {} if text else {"prompt": "", "instruction": ""}
    return dataclasses.replace(example, **changed, **({} if source else {"image": None}))


@torch.no_grad()
def recomputed(
    model: UniFluidModel, formatter: Formatter, example: Example, sampling: ImageSampling, index: int
) -> Tensor:
    """One image, every place from a full pass over everything so far, for each of the three branches."""
    n, d = model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim
    order = make_order(sampling.order or formatter.order, n, randomness.generator(0, "order", index))
    branches = [prompt(example, True, True), prompt(example, False, True), prompt(example, False, False)]
    batches = []
    for branch in branches:
        segment = formatter.prompt(branch)
        segment.order, segment.rounds = order, sampling.rounds
        segment.target = torch.zeros(3, formatter.target_size, formatter.target_size)
        batches.append(pack([segment], formatter, 1))
    tokens = torch.zeros(1, n, d)  # in generation order
    sizes = round_sizes(n, sampling.rounds or n)
    rounds = [(start, start + size) for start, size in zip([0, *accumulate(sizes)], sizes, strict=False)]
    for k in range(n):
        start, stop = next((start, stop) for start, stop in rounds if k < stop)
        h = [model.backbone(model.embed(b, tokens), b.layout)[0, b.target_index[0, k]] for b in batches]
        rise = {"constant": 1, "linear": stop / n}[sampling.schedule]
        text = 1 + (sampling.guidance - 1) * rise
        source = text if sampling.source_guidance is None else 1 + (sampling.source_guidance - 1) * rise
        weights = torch.tensor([[text], [source - text], [1 - source]])
        late = sampling.late_steps or sampling.steps
        steps = round(sampling.steps + (late - sampling.steps) * start / (n - 1))
        noise = randomness.normal(0, [index], f"place/{k}", steps + 1, d).transpose(0, 1)
        how = sampling.temperature, sampling.interval
        tokens[:, k] = model.image_head.sample(torch.stack(h)[:, None], noise, weights, *how)
    made = torch.empty(n, d)
    made[order] = tokens[0]
    return made


@pytest.mark.parametrize(
    "sampling",
    [
        PLAIN,
        GUIDED,
        ImageSampling(steps=4, guidance=2.0),
        ImageSampling(steps=3, guidance=2.0, source_guidance=1.0, order="raster"),
        ImageSampling(steps=6, guidance=2.0, late_steps=2, interval=(0.2, 0.8)),
        ImageSampling(steps=6, guidance=2.0, schedule="linear", late_steps=2, rounds=4),
        ImageSampling(steps=3, order=[8, 6, 7, 5, 3, 0, 1, 4, 2], batch_size=2),
    ],
)
def test_the_cache_changes_nothing(monkeypatch, model, formatter, sampling):
    formatter = dataclasses.replace(formatter, rounds=(4,))
    tokens = drawn_tokens(monkeypatch, model, formatter, EXAMPLES, sampling)
    for index, example in enumerate(EXAMPLES):
        expected = recomputed(model, formatter, example, sampling, index)
        assert (tokens[index] - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("sampling", [PLAIN, GUIDED])
def test_an_image_does_not_depend_on_its_neighbours(monkeypatch, model, formatter, sampling):
    noises, sample = [], model.image_head.sample
    monkeypatch.setattr(model.image_head, "sample", lambda z, noise, *a: noises.append(noise) or sample(z, noise, *a))
    together = drawn_tokens(monkeypatch, model, formatter, EXAMPLES, sampling, indices=[7, 3, 5])
    n = len(noises)
    by_two = drawn_tokens(
        monkeypatch, model, formatter, EXAMPLES[::-1], dataclasses.replace(sampling, batch_size=2), indices=[5, 3, 7]
    )
    for k in range(n):
        assert torch.equal(noises[k].flip(1), torch.cat([noises[n + k], noises[2 * n + k]], 1))
    assert (together.flip(0) - by_two).abs().max() <= 1e-5 * together.abs().max().clamp(min=1)


def test_an_image_is_a_function_of_seed_and_index(monkeypatch, model, formatter):
    def draw(seed, index):
        return drawn_tokens(monkeypatch, model, formatter, EXAMPLES[:1], PLAIN, seed, indices=[index])

    assert torch.equal(draw(0, 1), draw(0, 1))
    assert not torch.equal(draw(0, 1), draw(0, 2)) and not torch.equal(draw(0, 1), draw(1, 1))
    defaults = drawn_tokens(monkeypatch, model, formatter, EXAMPLES[:1] * 2, PLAIN)
    assert (defaults[1] - draw(0, 1)[0]).abs().max() <= 1e-5 * defaults.abs().max()


def test_the_prompt_the_source_and_guidance_count(monkeypatch, model, formatter):
    edit = EXAMPLES[1]
    assert edit.task == "edit"
    made = [
        drawn_tokens(monkeypatch, model, formatter, [example], sampling)
        for example in (edit, prompt(edit, False, True), prompt(edit, True, False))
        for sampling in (PLAIN, GUIDED)
    ]
    assert all(not torch.allclose(a, b, atol=1e-3) for i, a in enumerate(made) for b in made[:i])


def test_no_guidance_costs_one_branch(monkeypatch, model, formatter):
    shapes, sample = [], model.image_head.sample
    monkeypatch.setattr(model.image_head, "sample", lambda z, *a: shapes.append(z.shape[:2]) or sample(z, *a))
    for sampling, branches in (
        (PLAIN, 1),
        (ImageSampling(2, guidance=3), 2),
        (ImageSampling(2, 3, "none"), 1),
        (GUIDED, 3),
    ):
        shapes.clear()
        generate_images(model, formatter, EXAMPLES, sampling, 0)
        assert set(shapes) == {(branches, len(EXAMPLES))}


def test_one_prefix_pass_one_cache_and_one_step_a_token(monkeypatch, model, formatter):
    lengths, caches, forward, new_cache = [], [], model.backbone.forward, model.backbone.new_cache
    monkeypatch.setattr(model.backbone, "forward", lambda x, *a: lengths.append(x.shape[1]) or forward(x, *a))
    monkeypatch.setattr(model.backbone, "new_cache", lambda *a: caches.append(a) or new_cache(*a))
    generate_images(model, formatter, EXAMPLES, GUIDED, 0)
    assert len(caches) == 1
    assert lengths[1:] == [1] * model.image_tokenizer.num_tokens
    assert lengths[0] == max(formatter.prefix_length(formatter.prompt(e)) for e in EXAMPLES)


@torch.no_grad()
def test_orders_are_only_names(monkeypatch, model, formatter):
    """Grid positions renamed in the tables and in the order: the same tokens, at the new names."""
    names, order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5]), [8, 6, 7, 5, 3, 0, 1, 4, 2]
    expected = drawn_tokens(monkeypatch, model, formatter, EXAMPLES, dataclasses.replace(GUIDED, order=order))
    for name in ("own_position", "next_position"):
        table = getattr(model, name)
        other = table.detach().clone()
        other.flatten(0, 1)[names] = table.flatten(0, 1)
        monkeypatch.setattr(table, "data", other)
    renamed = dataclasses.replace(GUIDED, order=names[order].tolist())
    made = drawn_tokens(monkeypatch, model, formatter, EXAMPLES, renamed)
    assert torch.equal(made[:, names], expected)


def test_pixels_progress_and_modes(model, formatter):
    model.train()
    model.backbone.eval()
    seen = []
    images = generate_images(
        model, formatter, EXAMPLES, ImageSampling(2, batch_size=2), 0, progress=lambda done, n: seen.append((done, n))
    )
    assert images.dtype == torch.uint8 and images.shape == (3, 3, formatter.target_size, formatter.target_size)
    images[0] = 0  # callers may write into them
    assert [n for _, n in seen] == [3] * len(seen) and seen == sorted(seen) and seen[-1] == (3, 3)
    assert model.training and not model.backbone.training and model.image_head.training
    model.eval()
    assert generate_images(model, formatter, [], PLAIN, 0).shape == (0, 3, formatter.target_size, formatter.target_size)


def test_pixels_are_those_of_the_tokenizer(monkeypatch, model, formatter):
    target = torch.stack([to_unit(tiny.image(i, formatter.target_size), formatter.target_size) for i in range(2)])
    tokens = model.image_tokenizer.tokens(model.image_tokenizer.encode(target))  # (2, N, d)
    order = ImageSampling(order="raster").order
    place = iter(range(tokens.shape[1]))
    monkeypatch.setattr(model.image_head, "sample", lambda *a: tokens[:, next(place)])
    made = generate_images(model, formatter, EXAMPLES[:2], ImageSampling(1, order=order), 0)
    assert torch.equal(made, torch.stack([tiny.image(i, formatter.target_size) for i in range(2)]))


def test_mixed_precision(monkeypatch, model, formatter):
    full = drawn_tokens(monkeypatch, model, formatter, EXAMPLES, PLAIN)
    dtypes, new_cache = [], model.backbone.new_cache
    monkeypatch.setattr(model.backbone, "new_cache", lambda *a: dtypes.append(a[1]) or new_cache(*a))
    with torch.autocast("cpu", torch.bfloat16):
        made = drawn_tokens(monkeypatch, model, formatter, EXAMPLES, PLAIN)
    assert dtypes == [torch.bfloat16] and made.dtype == torch.float32
    assert (made - full).abs().mean() < 0.1 * full.abs().mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"steps": 0}, "at least 1"), ({"batch_size": 0}, "at least 1"), ({"schedule": "square"}, "constant, linear")],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ImageSampling(**arguments)


def test_the_order_is_that_of_training_unless_given(model, formatter):
    trained = dataclasses.replace(formatter, order="raster")
    made = generate_images(model, trained, EXAMPLES[:2], ImageSampling(2), 0)
    assert torch.equal(made, generate_images(model, formatter, EXAMPLES[:2], ImageSampling(2, order="raster"), 0))
    assert not torch.equal(made, generate_images(model, formatter, EXAMPLES[:2], ImageSampling(2, order="random"), 0))


def test_a_wrong_order_is_refused(model, formatter):
    with pytest.raises(ValueError, match="permutation of 0…8"):
        generate_images(model, formatter, EXAMPLES, ImageSampling(order=[1, 0]), 0)


def test_a_sampler_can_be_chosen_for_the_head(monkeypatch, model, formatter):
    own, other = ("ode", "heun") if isinstance(model.image_head, FlowMLP) else ("ancestral", "dpm++")
    head, plain = model.image_head, ImageSampling(steps=3)
    before = head.sampler
    first, second = (
        drawn_tokens(monkeypatch, model, formatter, EXAMPLES[:1], dataclasses.replace(plain, sampler=sampler))
        for sampler in (own, other)
    )
    assert not torch.allclose(first, second, rtol=1e-3)
    assert head.sampler == before
    with pytest.raises(ValueError, match="sampler must be one of .*, got 'euler'"):
        generate_images(model, formatter, EXAMPLES[:1], dataclasses.replace(plain, sampler="euler"), 0)


def test_what_a_part_does_not_leave_to_drawing_cannot_be_chosen(model):
    with (
        pytest.raises(ValueError, match="sampler cannot be chosen for drawing: .* has nothing like it"),
        drawn_with(model.backbone, {"sampler": "ode"}),
    ):
        pass


@pytest.mark.parametrize("interval", [(0.5, 0.2), (-0.1, 1.0), (0.0, 1.1)])
def test_intervals_are_checked(interval):
    with pytest.raises(ValueError, match="interval must be two shares of the steps"):
        ImageSampling(interval=interval)


def test_rounds_that_were_not_trained_are_refused(model, formatter):
    formatter = dataclasses.replace(formatter, rounds=(4,))
    with pytest.raises(ValueError, match="rounds must be one of those trained, 4, 9, got 3: see model.rounds"):
        generate_images(model, formatter, EXAMPLES[:1], ImageSampling(steps=2, rounds=3), 0)


def test_a_round_costs_one_backbone_step(monkeypatch, model, formatter):
    lengths, forward = [], model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda x, *a: lengths.append(x.shape[1]) or forward(x, *a))
    formatter = dataclasses.replace(formatter, rounds=(4,))
    generate_images(model, formatter, EXAMPLES, ImageSampling(steps=2, rounds=4), 0)
    assert lengths[1:] == round_sizes(9, 4)
