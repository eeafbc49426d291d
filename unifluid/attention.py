"""Where a model looks while it draws: the attention of every image token over the words of its prompt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.images import to_image
from unifluid.backbones.decoder import Block, LayerCache, rotate
from unifluid.decoding.graphed import eager
from unifluid.decoding.images import generate_images
from unifluid.interfaces import TextTokenizer
from unifluid.pipeline import Pipeline
from unifluid.sequence import Example


@dataclass(frozen=True)
class AttentionMaps:
    """One picture, and where the model looked for each of its tokens.

    Args:
        picture: what was drawn.
        words: the P ids of the prompt as text, those that begin and end it among them.
        weights: (layers, heads, rows, columns, P), fp32 on the CPU: the share of the attention that falls on each word
            at the step that draws the token at (row, column). What is missing to one falls on the picture so far.
        steps: (rows, columns), the step at which each token was drawn, from 0.
    """

    picture: Image.Image
    words: list[str]
    weights: Tensor
    steps: Tensor


@torch.no_grad()
def attention_maps(pipeline: Pipeline, prompt: str, seed: int = 0, **sampling: object) -> AttentionMaps:
    """Draw `prompt` as `pipeline.generate` would, and record where each image token looks.

    With guidance it is the branch that sees the prompt. Raises ValueError for backbones other than
    `unifluid.backbones.Decoder`, whose attention is not at hand, and for several candidates or rounds.
    """
    model, formatter = pipeline.module.model, pipeline.module.formatter
    chosen = replace(pipeline.sampling, **sampling)
    if chosen.candidates > 1 or chosen.rounds is not None:
        raise ValueError("attention is that of one picture, token by token: set candidates to 1 and leave rounds out")
    blocks = model.backbone.layers()
    if not all(isinstance(block, Block) for block in blocks):
        raise ValueError(
            f"attention is recorded of unifluid.backbones.Decoder only, not {type(model.backbone).__name__}"
        )
    grid, ids = model.image_tokenizer.grid, formatter.prefix(prompt)
    places: list[int] = []

    def watch(_: Tensor, drawn: Tensor) -> None:
        places.append(next(i for i in drawn[0].nonzero()[:, 0].tolist() if i not in places))

    example = Example("0", "generate", prompt=prompt)
    with pipeline._autocast(), recorded(blocks) as calls:
        (image,) = generate_images(model, formatter, [example], chosen, seed, watch=watch, recorder=eager)
    count = len(blocks)
    end = calls[0].shape[-1]  # the first call of each block is that of the prompts, right-aligned
    drawing = [torch.stack(calls[k : k + count]) for k in range(count, len(calls), count)]
    found = torch.stack([step[:, 0, :, 0, end - len(ids) : end] for step in drawing], dim=2)
    weights, steps = torch.empty_like(found), torch.empty(len(places), dtype=torch.long)
    weights[:, :, places], steps[places] = found, torch.arange(len(places))
    words = _words(formatter.tokenizer, ids)
    return AttentionMaps(to_image(image), words, weights.unflatten(2, grid), steps.view(grid))


@contextmanager
def recorded(blocks: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Attention weights (B, heads, queries, keys), fp32 on the CPU, of every call of each of a decoder's `blocks`."""
    calls: list[Tensor] = []
    handles = [block.register_forward_hook(lambda b, inputs, _: calls.append(_weights(b, *inputs))) for block in blocks]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _weights(
    block: Block, x: Tensor, bias: Tensor, rotation: tuple[Tensor, Tensor], cache: LayerCache | None
) -> Tensor:
    """What `Block.attention` weighs the values with; a cache holds the keys of this call by now."""
    x = block.attention_norm(x)
    q, k = (f(x).unflatten(-1, (-1, block.head_width)) for f in (block.query, block.key))
    q, k = (rotate(block.qk_norm(t), rotation).transpose(1, 2) for t in (q, k))
    if cache is not None:
        k = cache.storage[0, :, :, : cache.keys]
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return (q.float() @ k.float().mT * block.head_width**-0.5 + bias.float()).softmax(-1).cpu()


def _words(tokenizer: TextTokenizer, ids: list[int]) -> list[str]:
    names = {tokenizer.bos: "⟨begin⟩", tokenizer.separator: "⟨end⟩"}
    return [names.get(i) or tokenizer.decode([i]) for i in ids]
