"""Text: greedy, sampled, or by beam search, batched, from the same cached prefix as images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unifluid import randomness
from unifluid.decoding.packed import packed
from unifluid.decoding.prefix import Progress, inference, numbers_of, prefill
from unifluid.model import UniFluidModel
from unifluid.sequence import Example, Formatter, Segment


@dataclass(frozen=True)
class TextSampling:
    """How text is written. Raises ValueError where a setting is out of range, or two do not go together.

    Args:
        beams: width of the beam search; 1 is no search.
        temperature: 0 takes the likeliest token at every step, above 0 draws.
        top_p: draws come from the likeliest tokens that together have this probability.
        max_tokens: longest text in tokens, its end included.
        batch_size: texts written at once.
    """

    beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 64
    batch_size: int = 32

    def __post_init__(self) -> None:
        if min(self.beams, self.max_tokens, self.batch_size) < 1:
            raise ValueError("beams, max_tokens and batch_size must be at least 1")
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature must be finite and not negative ({self.temperature}), top_p in (0, 1] ({self.top_p})"
            )
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("beam search does not draw: set beams to 1 or temperature to 0")


def generate_text(
    model: UniFluidModel,
    formatter: Formatter,
    examples: list[Example],
    sampling: TextSampling,
    seed: int,
    indices: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Captions or answers for `examples`; draws are a function of (seed, indices[i]), `indices` default to 0, 1, …

    Control ids other than eos have no probability. Runs on the model's device, in the caller's autocast.
    """
    indices = numbers_of(examples, indices)
    texts: list[str] = []
    with inference(model), packed(model.backbone):
        for start in range(0, len(examples), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            prompts = [formatter.prompt(example) for example in examples[part]]
            writer = Writer(model, formatter, prompts, sampling.max_tokens)
            if sampling.beams > 1:
                ids = beam_search(writer, sampling.beams)
            else:
                u = randomness.uniform(seed, indices[part], "text", sampling.max_tokens, device=writer.h.device)
                ids = sample(writer, sampling.temperature, sampling.top_p, u)
            texts += [formatter.tokenizer.decode(row) for row in ids.tolist()]
            if progress is not None:
                progress(len(texts), len(examples))
    return texts


class Writer:
    """Prompts in the cache, one a row, and the logits of what may come next."""

    def __init__(self, model: UniFluidModel, formatter: Formatter, prompts: list[Segment], max_tokens: int):
        tokenizer = formatter.tokenizer
        self.model, self.max_tokens, self.eos, self.pad = model, max_tokens, tokenizer.eos, tokenizer.pad
        self.h, self.cache = prefill(model, formatter, prompts, room=max_tokens - 1)
        self.never = torch.tensor([tokenizer.bos, tokenizer.pad, tokenizer.separator], device=self.h.device)

    def logits(self) -> Tensor:
        """(B, V), fp32, −inf for control ids other than eos."""
        logits = self.model.text_head.logits(self.h, self.model.backbone.output_weight)
        return logits.index_fill(-1, self.never, float("-inf"))

    def write(self, ids: Tensor) -> None:
        """Put ids (B,) at the end of the rows."""
        x = self.model.backbone.embed(ids[:, None])
        self.h = self.model.backbone(x, self.cache.layout, self.cache)[:, -1]


def sample(writer: Writer, temperature: float, top_p: float, u: Tensor) -> Tensor:
    """Greedy (temperature 0) or drawn ids (B, T), pad after eos; u (B, max_tokens): the uniform draws to use.

    Texts that have ended leave the batch, and cost nothing more.
    """
    ids = torch.full(u.shape, writer.pad, device=u.device)
    rows = torch.arange(len(u), device=u.device)  # whose texts are still being written
    for k in range(writer.max_tokens):
        logits = writer.logits()
        chosen = nucleus(cooled(logits, temperature), top_p, u[rows, k]) if temperature > 0 else logits.argmax(-1)
        ids[rows, k] = chosen
        going = (chosen != writer.eos).nonzero()[:, 0]
        rows = rows[going]
        if not len(rows) or k + 1 == writer.max_tokens:
            break
        if len(going) < len(chosen):
            writer.cache.reorder(going)
        writer.write(chosen[going])
    return ids


def cooled(logits: Tensor, temperature: float) -> Tensor:
    """Logits (B, V) at a temperature above 0, however low: the largest is 0."""
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, 1e-30)


def nucleus(logits: Tensor, top_p: float, u: Tensor) -> Tensor:
    """Nucleus sampling (arXiv 1904.09751) by inverse CDF: logits (B, V), uniform u (B,) -> ids (B,)."""
    p, ids = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
    mass = p.cumsum(-1)
    kept = (mass - p < top_p).sum(-1, keepdim=True)  # the fewest whose mass reaches top_p
    rank = (mass <= u[:, None] * mass.gather(-1, kept - 1)).sum(-1, keepdim=True)
    return ids.gather(-1, rank)[:, 0]


def beam_search(writer: Writer, beams: int) -> Tensor:
    """Ids (B, T) ending in eos, pad after it, of the highest sum of log-probabilities found; no length penalty.

    As big_vision decodes PaliGemma: at every step each of the `beams` unfinished texts is also tried as finished, the
    best finished one is kept, and the search ends when no unfinished one can beat it, since sums only fall.
    """
    device, longest = writer.h.device, writer.max_tokens
    best = torch.full((writer.h.shape[0], longest), writer.pad, device=device)
    best_score = torch.full((len(best),), float("-inf"), device=device)
    rows = torch.arange(len(best), device=device)  # whose texts can still get better; of these
    ids, score = best[:, None], torch.zeros(len(best), 1, device=device)  # unfinished (R, n, T), their sums (R, n)
    for k in range(longest):
        logp = writer.logits().log_softmax(-1).unflatten(0, score.shape)  # (R, n, V)
        ended_score, winner = (score + logp[..., writer.eos]).max(-1)
        ended = ids[torch.arange(len(rows), device=device), winner]
        ended[:, k] = writer.eos
        best[rows] = torch.where((ended_score > best_score[rows])[:, None], ended, best[rows])
        best_score[rows] = torch.maximum(best_score[rows], ended_score)

        logp[..., writer.eos] = float("-inf")
        total, texts = (score[..., None] + logp).flatten(1), logp.shape[1]
        score, choice = total.topk(min(beams, total.shape[1]))
        going = (best_score[rows] < score[:, 0]).nonzero()[:, 0]
        if k + 1 == longest or not len(going):
            break
        rows, score = rows[going], score[going]
        parent, token = choice[going] // logp.shape[-1], choice[going] % logp.shape[-1]
        ids = ids[going].gather(1, parent[..., None].expand(-1, -1, longest))
        ids[..., k] = token
        writer.cache.reorder((parent + going[:, None] * texts).flatten())
        writer.write(token.flatten())
    return best
