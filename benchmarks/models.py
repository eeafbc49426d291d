"""Models of published sizes with random weights, and parts that cost nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unifluid.backbones import Decoder
from unifluid.encoders import Patches
from unifluid.heads import ClassificationHead, DiffusionMLP
from unifluid.interfaces import Backbone, ImageHead, ImageTokenizer, TextTokenizer
from unifluid.model import UniFluidModel
from unifluid.sequence import Example, Formatter

HEAD = {"depth": 6, "width": 1024}  # MAR's smallest, at all its sizes but the largest
TINY_HEAD = {"depth": 2, "width": 32}
VOCABULARY = 1024


class Numbers(TextTokenizer):
    """Text is its ids in decimal, so that what is written can be compared id for id."""

    pad, bos, eos, separator = 0, 1, 2, 3

    def __init__(self, vocab_size: int = VOCABULARY):
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(str(i) for i in ids if i > self.separator)

    def state(self) -> bytes:
        return b""

    def load_state(self, state: bytes) -> None:
        pass


class Latents(ImageTokenizer):
    """Tokens as of an autoencoder's latents, whose first three channels are the pixels: costs nothing on any side."""

    def __init__(self, rows: int = 16, columns: int = 16, channels: int = 16):
        super().__init__()
        self.grid, self.token_dim, self.image_size = (rows, columns), channels, max(rows, columns)

    def encode(self, image: Tensor) -> Tensor:
        return image

    def tokens(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        pixels = moments[..., : self.grid[0], : self.grid[1]].flatten(-2).mT
        return nn.functional.pad(pixels, (0, self.token_dim - 3))

    def decode(self, tokens: Tensor) -> Tensor:
        picture = tokens[..., :3].mT.unflatten(-1, self.grid).clamp(-1, 1)
        return nn.functional.pad(picture, (0, self.image_size - self.grid[1], 0, self.image_size - self.grid[0]))


def filled(module: nn.Module) -> nn.Module:
    """No weights left at zero: heads start as the identity, which would make every comparison a success."""
    for parameter in module.parameters():
        if parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.3 * parameter.shape[-1] ** -0.5)
    return module


def make_head(
    kind: Callable[..., ImageHead], tiny: bool, condition: int = 768, token_dim: int = 16, **options: object
) -> ImageHead:
    """A head of published size for a condition of MAR-base's width."""
    torch.manual_seed(0)
    return filled(kind(token_dim, condition, **(TINY_HEAD if tiny else HEAD), **options)).eval()


def make_model(
    backbone: Backbone,
    head: ImageHead | Callable[[int, int], ImageHead] = DiffusionMLP,
    grid: tuple[int, int] = (16, 16),
) -> UniFluidModel:
    """A model that draws; parts given are used as they are, so models of several grids can share them."""
    torch.manual_seed(0)
    tokenizer = Latents(*grid)
    head = head if isinstance(head, ImageHead) else filled(head(tokenizer.token_dim, backbone.width))
    encoder = Patches(image_size=16, patch_size=8, width=32, depth=0)
    model = UniFluidModel(backbone, ClassificationHead(backbone.logit_softcap), encoder, tokenizer, head)
    device = next(backbone.parameters()).device
    return model.to(device).eval()


def decoder(tiny: bool, depth: int = 12, width: int = 768) -> Backbone:
    """MAR-base's transformer in our own layers."""
    torch.manual_seed(0)
    sizes = {"depth": 2, "width": 32, "heads": 2} if tiny else {"depth": depth, "width": width, "heads": width // 64}
    return Decoder(VOCABULARY, mlp_width=None if tiny else 4 * width, **sizes)


def make_formatter(model: UniFluidModel, **overrides: object) -> Formatter:
    settings = {
        "target_size": model.image_tokenizer.image_size,
        "num_target_tokens": model.image_tokenizer.num_tokens,
        "image_size": model.image_encoder.image_size,
        "num_image_tokens": model.image_encoder.num_tokens,
        "max_prefix": 10_000,
    }
    return Formatter(Numbers(model.backbone.vocab_size), **(settings | overrides))


def prompts(n: int, length: int, spread: int = 0, vocabulary: int = VOCABULARY) -> list[Example]:
    """`n` prompts whose prefixes have `length` positions, control ids counted; `spread` makes them up to so much
    shorter, in turn."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for i in range(n):
        count = length - 2 - i * spread // max(n - 1, 1)
        ids = torch.randint(4, vocabulary, (count,), generator=generator).tolist()
        examples.append(Example(str(i), "generate", prompt=" ".join(map(str, ids))))
    return examples
