"""A tiny model of real parts, for every test that needs one: `tiny.model()`, with overrides for any part."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn

from unifluid import encoders, tokenizers
from unifluid.backbones import Decoder
from unifluid.heads.classification import ClassificationHead
from unifluid.heads.flow_mlp import FlowMLP
from unifluid.interfaces import TextTokenizer
from unifluid.layout import Layout
from unifluid.model import UniFluidModel
from unifluid.sequence import TASKS, Example, Formatter

BACKBONE = {"width": 32, "depth": 2, "heads": 4, "kv_heads": 2}
HEAD = {"depth": 1, "width": 32}


class Letters(TextTokenizer):
    """A tokenizer that needs no training: one id a character."""

    vocab_size, pad, bos, eos, separator = 40, 0, 1, 2, 3

    def encode(self, text: str) -> list[int]:
        return [4 + (ord(c) - ord(" ")) % 36 for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 4 + ord(" ")) for i in ids if i >= 4)

    def state(self) -> bytes:
        return b""

    def load_state(self, state: bytes) -> None:
        pass


class Pixels(tokenizers.Pixels):
    def __init__(self, image_size: int = 6, patch: int = 2):
        super().__init__(image_size, patch)


class Patches(encoders.Patches):
    def __init__(self, image_size: int = 8, patch_size: int = 4, width: int = 16, depth: int = 1, heads: int = 2):
        super().__init__(image_size, patch_size, width, depth, heads)


def tokenizer() -> TextTokenizer:
    return Letters()


def model(seed: int = 0, head: Any = FlowMLP, vocab_size: int | None = None, **parts: Any) -> UniFluidModel:
    """A model with no zero weights left (heads start as the identity, which would make comparisons vacuous)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        image_tokenizer = parts.pop("image_tokenizer", None) or Pixels()
        backbone = parts.pop("backbone", None) or Decoder(vocab_size or tokenizer().vocab_size, **BACKBONE)
        made = UniFluidModel(
            backbone,
            parts.pop("text_head", None) or ClassificationHead(),
            parts.pop("image_encoder", None) or Patches(),
            image_tokenizer,
            head(image_tokenizer.token_dim, backbone.width, **HEAD),
            **parts,
        )
        for parameter in made.parameters():
            if parameter.requires_grad and not parameter.any():
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return made.eval()


def formatter(model: UniFluidModel, **overrides: Any) -> Formatter:
    settings = {
        "tokenizer": tokenizer(),
        "target_size": model.image_tokenizer.image_size,
        "num_target_tokens": model.image_tokenizer.num_tokens,
        "image_size": model.image_encoder.image_size,
        "num_image_tokens": model.image_encoder.num_tokens,
    }
    return Formatter(**(settings | overrides))


def layout(rows: list[list[tuple[int, int]]], length: int, pad_left: bool = False) -> Layout:
    """Rows of segments, each (prefix, suffix) long; the rest of `length` is padding."""
    grid = torch.zeros(3, len(rows), length, dtype=torch.long)
    for r, row in enumerate(rows):
        start = length - sum(map(sum, row)) if pad_left else 0
        for number, (prefix, suffix) in enumerate(row, 1):
            stop = start + prefix + suffix
            grid[0, r, start:stop] = number
            grid[1, r, start : start + prefix] = 1
            grid[2, r, start:stop] = torch.arange(prefix + suffix)
            start = stop
    return Layout(grid[0], grid[1].bool(), grid[2])


def image(seed: int, size: int = 8) -> Tensor:
    """A uint8 picture (3, size, size)."""
    return torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def examples() -> list[Example]:
    """Every task, prefixes and suffixes of different lengths, two images in one."""
    return [
        Example("0", "generate", target=image(0), prompt="a red circle"),
        Example("1", "caption", image=image(1), prompt="caption en", caption="two blue squares"),
        Example("2", "answer", image=(image(2), image(3)), question="same?", answers=("no",)),
        Example("3", "edit", image=image(4), target=image(5), instruction="make it green"),
        Example("4", "generate", target=image(6), prompt="x"),
        Example("5", "answer", image=image(7), question="how many stars are there?", answers=("three",)),
    ]


def random_examples(seed: int, n: int) -> list[Example]:
    """`n` examples of any task, with prefixes and suffixes of any length."""
    draw = random.Random(seed)
    made = []
    for i in range(n):
        task, words = draw.choice(TASKS), "".join(draw.choices("abc de", k=draw.randint(1, 20)))
        images = tuple(image(10 * i + k) for k in range(draw.randint(1, 2)))
        text = {"prompt": words, "question": words, "instruction": words}
        looked_at = None if task == "generate" else images
        target = image(10 * i + 9) if task in ("generate", "edit") else None
        made.append(Example(str(i), task, looked_at, target, caption=words[::-1], answers=(words[:3],), **text))
    return made
