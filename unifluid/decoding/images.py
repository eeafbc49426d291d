"""Images, token by token: prompts into the cache once, then for each place in the order one backbone step, from whose
hidden state the image head samples the token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from unifluid import randomness
from unifluid.decoding.guidance import SCHEDULES, Schedule, branch_weights
from unifluid.decoding.likelihood import likelihood_of_prompts
from unifluid.decoding.packed import packed
from unifluid.decoding.prefix import Progress, inference, prefill
from unifluid.interfaces import Interval, Part
from unifluid.model import UniFluidModel
from unifluid.sequence import Example, Formatter, Order, make_order, round_layout, round_sizes, to_uint8

Watch = Callable[[Tensor, Tensor], None]  # image tokens (M, N, d) of a batch, row-major; which are drawn (M, N)


@dataclass(frozen=True)
class ImageSampling:
    """How images are drawn. Raises ValueError, naming the setting, where one is out of range.

    Args:
        steps: head steps for every image token (MAR: 100; a flow head needs about 25).
        guidance: classifier-free guidance scale; 1 decodes the prompt alone, at half the cost.
        schedule: guidance over the image tokens: constant, rising from 1 (linear, cosine), or none.
        source_guidance: scale for an edit's source image, apart from its instruction's; left out, it is `guidance`.
        temperature: multiplies the noise of the head's steps, not the initial noise.
        order: order in which image tokens are drawn: random, raster, or a permutation of their row-major numbers; by
            default the order of training.
        batch_size: images drawn at once; images do not depend on it.
        candidates: images drawn for each prompt, of which the one is kept from which the model itself would best read
            the prompt back (log-likelihood as a caption). The first of them is what would be drawn without.
        candidates_prompt: what captions are asked for with, in that reading.
        rounds: in which an image is drawn, few tokens in the first and more in later ones (MAR, 2406.11838); one of
            those that the model was trained for. Left out, a token at a time.
        late_steps: head steps for the last image token, to which those of the others fall linearly from `steps`: the
            more of an image is there, the easier its next token (DiSA, 2505.20297). Left out, all have `steps`.
        sampler, time_shift: of the head, in place of its own; see there.
        interval: share of a token's head steps, from noise to token, in which guidance counts (2404.07724).
        int8: on a CPU, large matrices of backbone and image head in 8 bits: several times faster, a little coarser.
    """

    steps: int = 100
    guidance: float = 1.0
    schedule: Schedule = "constant"
    source_guidance: float | None = None
    temperature: float = 1.0
    order: Order | None = None
    batch_size: int = 64
    candidates: int = 1
    candidates_prompt: str = "caption en"
    rounds: int | None = None
    late_steps: int | None = None
    sampler: str | None = None
    time_shift: float | None = None
    interval: Interval = (0.0, 1.0)
    int8: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "late_steps", "rounds", "batch_size", "candidates"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("guidance", "source_guidance", "temperature"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ValueError(f"interval must be two shares of the steps, such as 0.2, 0.9; got {self.interval}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")


def generate_images(
    model: UniFluidModel,
    formatter: Formatter,
    examples: list[Example],
    sampling: ImageSampling,
    seed: int,
    indices: list[int] | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Draw the prompts, or follow the edit instructions, of `examples` -> uint8 images (n, 3, H, W) on the CPU.

    Image i is a function of (seed, indices[i]) and its example, whatever is drawn beside it; `indices`: default 0, 1, …
    `watch` is told of the tokens as they come, zeros where none is yet. Runs on the model's device, in the caller's
    autocast; pixels are decoded in full precision.
    """
    n, candidates = len(examples), sampling.candidates
    indices = list(range(n)) if indices is None else indices
    if candidates > 1 and any(example.task != "generate" for example in examples):
        raise ValueError("candidates are read back as captions of their prompts: edits have none, set candidates to 1")

    def drawn(k: int) -> Tensor:
        def report(done: float, _: int) -> None:
            if progress is not None:
                progress((k * n + done) / candidates, n)

        own = randomness.derive(seed, "candidate", k) if k else seed
        return _draw(model, formatter, examples, sampling, own, indices, report, watch)

    best = drawn(0)
    if candidates == 1:
        return best
    judged = model, formatter, examples
    score = likelihood_of_prompts(*judged, best, sampling.candidates_prompt)
    for k in range(1, candidates):
        images = drawn(k)
        other = likelihood_of_prompts(*judged, images, sampling.candidates_prompt)
        better = other > score
        best[better], score[better] = images[better], other[better]
    return best


def _draw(
    model: UniFluidModel,
    formatter: Formatter,
    examples: list[Example],
    sampling: ImageSampling,
    seed: int,
    indices: list[int],
    progress: Progress,
    watch: Watch | None,
) -> Tensor:
    """One image for each example, (n, 3, H, W) uint8 on the CPU, a batch at a time."""
    n, size = len(examples), model.image_tokenizer.image_size
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)  # made outside inference mode, so that callers may write
    head = model.image_head
    chosen = drawn_with(head, sampler=sampling.sampler, time_shift=sampling.time_shift)
    with inference(model), chosen, packed(model.backbone, head, int8=sampling.int8):
        for start in range(0, n, sampling.batch_size):
            part = slice(start, start + sampling.batch_size)

            def report(done: float, start: int = start) -> None:
                progress(start + done, n)

            tokens = _generate_tokens(model, formatter, examples[part], sampling, seed, indices[part], report, watch)
            images[part] = decode(model, tokens)
    return images


@contextmanager
def drawn_with(part: Part, **arguments: Any) -> Iterator[None]:
    """Within it, `part` draws with those `arguments` that are not None. Raises ValueError naming one it has not."""
    chosen = {name: value for name, value in arguments.items() if value is not None}
    for name in chosen.keys() - set(part.drawing):
        choices = " and ".join(part.drawing) or "nothing like it"
        raise ValueError(f"{name} cannot be chosen for drawing: {type(part).__name__} has {choices}")
    if chosen:
        with torch.device("meta"):
            type(part)(**(part.init_args | chosen))  # checks them
    own = {name: getattr(part, name) for name in chosen}
    try:
        vars(part).update(chosen)
        yield
    finally:
        vars(part).update(own)


def decode(model: UniFluidModel, tokens: Tensor) -> Tensor:
    """Image tokens (M, N, d), row-major -> uint8 images (M, 3, H, W), in full precision."""
    with torch.inference_mode(), torch.autocast(tokens.device.type, enabled=False):
        return to_uint8(model.image_tokenizer.decode(tokens.float()))


def _generate_tokens(
    model: UniFluidModel,
    formatter: Formatter,
    examples: list[Example],
    sampling: ImageSampling,
    seed: int,
    indices: list[int],
    report: Callable[[float], None],
    watch: Watch | None,
) -> Tensor:
    """Image tokens (M, N, d), row-major, of one batch of M examples. Nothing in the loop waits for the device."""
    n, d, m = model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim, len(examples)
    device, sizes = model.boi.device, _sizes(sampling.rounds, formatter)
    stops = list(accumulate(sizes))
    share = torch.tensor([stop for stop, size in zip(stops, sizes, strict=True) for _ in range(size)]) / n
    branches, weights = branch_weights(sampling.guidance, sampling.source_guidance, sampling.schedule, share)
    prompts = [formatter.prompt(e, text=b.text, source=b.source) for b in branches for e in examples]
    _, cache = prefill(model, formatter, prompts, room=n, ahead=None if max(sizes) == 1 else round_layout(sizes)[1])
    chosen = formatter.order if sampling.order is None else sampling.order
    order = torch.stack([make_order(chosen, n, randomness.generator(seed, "order", i)) for i in indices])
    order, weights = order.to(device), weights.T.to(device)[:, None].expand(-1, m, -1)
    late = sampling.steps if sampling.late_steps is None else sampling.late_steps
    steps = torch.linspace(sampling.steps, late, n).round().int().tolist()
    tokens, done = torch.zeros(m, n, d, device=device), torch.zeros(m, n, dtype=torch.bool, device=device)
    drawn = None
    for stop, size in zip(stops, sizes, strict=True):
        start = stop - size
        x = model.next_inputs(order, start, drawn, size)
        h = model.backbone(x.repeat(len(branches), 1, 1), cache.layout, cache)
        draws = ((f"place/{k}", steps[start] + 1, d) for k in range(start, stop))
        noise = torch.stack([randomness.normal(seed, indices, *draw, device=device) for draw in draws], dim=1)
        drawn = model.image_head.sample(
            h.view(len(branches), m * size, -1),
            noise.permute(2, 0, 1, 3).flatten(1, 2),
            weights[..., start:stop].flatten(1),
            sampling.temperature,
            sampling.interval,
        ).view(m, size, d)
        places = order[:, start:stop]
        tokens.scatter_(1, places[..., None].expand_as(drawn), drawn.to(tokens.dtype))
        report(m * stop / n)
        if watch is not None:
            watch(tokens, done.scatter_(1, places, True))
    return tokens


def _sizes(rounds: int | None, formatter: Formatter) -> list[int]:
    """How many tokens each round draws. Raises ValueError for rounds that were not trained."""
    n = formatter.num_target_tokens
    if rounds not in (None, n, *formatter.rounds):
        trained = ", ".join(map(str, sorted({n, *formatter.rounds})))
        raise ValueError(f"rounds must be one of those trained, {trained}, got {rounds}: see model.rounds")
    return round_sizes(n, n if rounds is None else rounds)
