"""Images, token by token: prompts into the cache once, then for each place in the order one backbone step, from whose
hidden state the image head samples the token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from unifluid import randomness
from unifluid.decoding.graphed import Recorder, recorder_for
from unifluid.decoding.guidance import branch_weights
from unifluid.decoding.likelihood import likelihood_of_prompts
from unifluid.decoding.packed import packed
from unifluid.decoding.places import Places
from unifluid.decoding.prefix import Progress, inference, numbers_of
from unifluid.decoding.sampling import ImageSampling, check_candidates, drawn_with, sizes_of
from unifluid.model import UniFluidModel
from unifluid.sequence import Example, Formatter, make_order, round_layout, to_uint8

Watch = Callable[[Tensor, Tensor], None]  # image tokens (M, N, d) of a batch, row-major; which are drawn (M, N)


def generate_images(
    model: UniFluidModel,
    formatter: Formatter,
    examples: list[Example],
    sampling: ImageSampling,
    seed: int,
    indices: Sequence[int] | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    recorder: Recorder | None = None,
) -> Tensor:
    """Draw the prompts, or follow the edit instructions, of `examples` -> uint8 images (n, 3, H, W) on the CPU.

    Image i is a function of (seed, indices[i]) and its example, whatever is drawn beside it; `indices`: default 0, 1, …
    `watch` is told of the tokens as they come, zeros where none is yet. Runs on the model's device, in the caller's
    autocast; pixels are decoded in full precision. `recorder`: how the work of a place is repeated, by default that of
    the device, CUDA graphs on a GPU.
    """
    n, candidates = len(examples), sampling.candidates
    indices = numbers_of(examples, indices)
    check_candidates(sampling, (example.task for example in examples))

    def drawn(k: int) -> Tensor:
        def report(done: float, _: int) -> None:
            if progress is not None:
                progress((k * n + done) / candidates, n)

        own = randomness.derive(seed, "candidate", k) if k else seed
        return _draw(model, formatter, examples, sampling, own, indices, report, watch, recorder)

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
    recorder: Recorder | None,
) -> Tensor:
    """One image for each example, (n, 3, H, W) uint8 on the CPU, a batch at a time."""
    n, size = len(examples), model.image_tokenizer.image_size
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)  # made outside inference mode, so that callers may write
    head = model.image_head
    recorder = recorder or recorder_for(model.boi.device)
    with inference(model), drawn_with(head, sampling.of_head), packed(model.backbone, head, int8=sampling.int8):
        places = Places(model, formatter, sampling.temperature, sampling.interval, recorder)
        for start in range(0, n, sampling.batch_size):
            part = slice(start, start + sampling.batch_size)

            def report(done: float, start: int = start) -> None:
                progress(start + done, n)

            tokens = _generate_tokens(places, examples[part], sampling, seed, indices[part], report, watch)
            images[part] = decode(model, tokens)
    return images


def decode(model: UniFluidModel, tokens: Tensor) -> Tensor:
    """Image tokens (M, N, d), row-major -> uint8 images (M, 3, H, W), in full precision."""
    with torch.inference_mode(), torch.autocast(tokens.device.type, enabled=False):
        return to_uint8(model.image_tokenizer.decode(tokens.float()))


def _generate_tokens(
    places: Places,
    examples: list[Example],
    sampling: ImageSampling,
    seed: int,
    indices: list[int],
    report: Callable[[float], None],
    watch: Watch | None,
) -> Tensor:
    """Image tokens (M, N, d), row-major, of one batch of M examples. Nothing in the loop waits for the device."""
    model, formatter, m = places.model, places.formatter, len(examples)
    n, d = model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim
    device, sizes = model.boi.device, sizes_of(sampling.rounds, formatter)
    stops = list(accumulate(sizes))
    share = torch.tensor([stop for stop, size in zip(stops, sizes, strict=True) for _ in range(size)]) / n
    branches, weights = branch_weights(sampling.guidance, sampling.source_guidance, sampling.schedule, share)
    prompts = [formatter.prompt(e, text=b.text, source=b.source) for b in branches for e in examples]
    places.begin(prompts, ahead=None if max(sizes) == 1 else round_layout(sizes)[1])
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
        draws = ((f"place/{k}", steps[start] + 1, d) for k in range(start, stop))
        noise = torch.stack([randomness.normal(seed, indices, *draw, device=device) for draw in draws], dim=1)
        drawn = places.draw(start, x, noise.permute(2, 0, 1, 3).flatten(1, 2), weights[..., start:stop].flatten(1))
        here = order[:, start:stop]
        tokens.scatter_(1, here[..., None].expand_as(drawn), drawn.to(tokens.dtype))
        report(m * stop / n)
        if watch is not None:
            watch(tokens, done.scatter_(1, here, True))
    return tokens
