"""The slots of the kit: what each exchangeable part takes and gives.

A new backbone, tokenizer, encoder or head is one class derived from a base below, in one file, named by
`class_path` in one line of YAML. `tests/contracts/` runs over every class found.

Shape letters, used everywhere: B rows · L positions a row · D backbone width · N image tokens an image ·
d channels of an image token · M items of a flat batch · K noise copies of a token · G guidance branches ·
S head steps · V vocabulary · H, W pixels.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from unifluid.layout import Layout

Interval = tuple[float, float]  # shares, start before stop


class Recorded:
    """Remembers the arguments an object was built with, so that a checkpoint can name and rebuild it."""

    init_args: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any):
        self = super().__new__(cls)
        # bind_partial: copying and unpickling call __new__ without arguments and restore init_args afterwards.
        bound = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for name, parameter in inspect.signature(cls.__init__).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
            if parameter.kind is parameter.VAR_POSITIONAL and not arguments.get(name):
                arguments.pop(name, None)  # the signature of a class without an __init__ of its own
        object.__setattr__(self, "init_args", arguments)
        return self


class Part(Recorded, nn.Module, ABC):
    """A module that fills a slot. Building one is cheap; weights kept in files load in `load_pretrained`."""

    drawing: ClassVar[tuple[str, ...]] = ()  # arguments that say how is drawn: the same weights serve any value

    def load_pretrained(self) -> None:
        """Load the weights this part's arguments name, if any. Called once for a fresh run, never on restore."""

    def layers(self) -> list[nn.Module]:
        """The submodules that hold most of its parameters, each used by calling it and by nothing else: they can be
        sharded, compiled and recomputed one at a time."""
        return []


class Cache(ABC):
    """Keys and values of the positions seen so far, in storage allocated once.

    Attributes:
        layout: (B, C), of all C positions there will ever be.
        length: how many of them are filled.
    """

    layout: Layout
    length: int

    @abstractmethod
    def reorder(self, rows: Tensor) -> None:
        """Keep the rows named by `rows` (B,), as beam search needs."""

    @abstractmethod
    def clear(self) -> None:
        """Zeros everywhere: what is not filled is looked at with weight 0, and must be finite."""

    def restart(self, layout: Layout) -> None:
        """Begin anew with `layout`, of the same shape, in the same storage."""
        for own, new in zip(vars(self.layout).values(), vars(layout).values(), strict=True):
            if own is not None:
                own.copy_(new)
        self.clear()
        self.length = 0


class Backbone(Part):
    """A decoder over embedded tokens with the prefix-LM attention of `layout.attention_mask`.

    Built as `factory(vocab_size)`: the text tokenizer decides the vocabulary, the backbone follows or refuses.

    Attributes:
        width: D.
        vocab_size: rows V of `output_weight`, at least those of the tokenizer.
        logit_softcap: what the text head must softly cap its logits to, in backbones trained so; else None.
    """

    width: int
    vocab_size: int
    logit_softcap: float | None = None

    def check_tokenizer(self, tokenizer: TextTokenizer) -> None:
        """Raises ValueError where pretrained weights belong to another tokenizer. Called once for a fresh run."""

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """(V, D) matrix of the text classification; the embedding itself where it is tied."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Text ids (...,) -> embeddings (..., D), scaled as the backbone expects its input."""

    @abstractmethod
    def forward(self, x: Tensor, layout: Layout, cache: Cache | None = None, at: Tensor | None = None) -> Tensor:
        """Embeddings x (B, L, D) -> hidden states (B, L, D), after the final norm.

        Without a cache `layout` is (B, L). With one, `layout` is `cache.layout` (B, C), x holds the positions
        `cache.length : cache.length + L`, and the cache grows by L. With `at` (L,), numbers of positions on the device,
        x holds those, and the cache counts as full: so no Python number changes from pass to pass, and one can be
        recorded (`decoding.graphed`). Positions after them may be empty as yet; the attention rule hides them.
        """

    @abstractmethod
    def new_cache(self, layout: Layout, dtype: torch.dtype) -> Cache:
        """An empty cache for `layout` (B, C) on the backbone's device."""


class TextTokenizer(Recorded, ABC):
    """Text <-> ids. Control ids never come out of `encode`.

    Attributes:
        vocab_size: ids are 0 … vocab_size − 1.
        bos: before the text of a prefix. This and the next three are four different ids.
        eos: after a suffix.
        pad: in place of nothing.
        separator: between prefix and suffix.
    """

    vocab_size: int
    bos: int
    eos: int
    pad: int
    separator: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: no bos, eos or separator; text that spells a control piece is plain text."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; control ids are left out."""

    @abstractmethod
    def state(self) -> bytes:
        """What a checkpoint stores of the tokenizer (the bytes of its file)."""

    @abstractmethod
    def load_state(self, state: bytes) -> None:
        """Restore from `state`. Raises ValueError if its size does not fit `vocab_size`."""

    def train(self, texts: list[str]) -> None:
        """Learn the vocabulary from `texts` where it is not loaded from a file; otherwise do nothing."""

    @property
    def ready(self) -> bool:
        """Whether the tokenizer can encode already (trained, loaded or restored)."""
        return True


class ImageTokenizer(Part):
    """Pixels <-> continuous tokens, for generation. Images are (B, 3, H, W) in [-1, 1], H = W = `image_size`.

    Attributes:
        image_size: pixels.
        grid: tokens down and across; N is their product.
        token_dim: d, channels of a token.
    """

    image_size: int
    grid: tuple[int, int]
    token_dim: int

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> moments (B, ...): what is worth caching, before any sampling."""

    @abstractmethod
    def tokens(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Moments -> scaled tokens (B, N, d), row-major; `noise` (B, N, d) draws a sample, None gives the mode."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N, d) -> images (B, 3, H, W), clamped to [-1, 1]."""


class TrainableImageTokenizer(ImageTokenizer):
    """An image tokenizer that `autoencoder` trains: latents drawn from a Gaussian, decoded to pixels."""

    @abstractmethod
    def forward(self, image: Tensor, noise: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), standard normal noise (B, N, d), errors to add to the tokens (B, N, d) ->
        reconstructions (B, 3, H, W), not clamped, and moments (B, 2C, ...): mean and log-variance of the latents the
        reconstructions were drawn with. Both fp32."""


class ImageEncoder(Part):
    """Pixels -> features, for understanding: a prefix that carries no loss.

    Attributes:
        image_size: H = W in pixels.
        num_tokens: M, features of an image.
        width: D_enc, channels of a feature; the model projects them to the backbone's.
    """

    image_size: int
    num_tokens: int
    width: int

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> features (B, M, D_enc); B may be 0."""


class ImageHead(Part):
    """From a hidden state to a distribution over one continuous token.

    Built as `factory(token_dim, condition_dim)`. Times, noise and guidance come from outside, so that every
    result is a function of its arguments.

    Attributes:
        token_dim: d.
        condition_dim: D, the backbone's width.
    """

    token_dim: int
    condition_dim: int

    @abstractmethod
    def times(self, u: Tensor) -> Tensor:
        """Uniform draws u in [0, 1) -> times of the head's own training distribution, same shape."""

    @abstractmethod
    def loss(self, z: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z (M, D), x (M, d), t (K, M), noise (K, M, d) -> loss per token and copy (K, M), fp32."""

    @abstractmethod
    def sample(
        self, z: Tensor, noise: Tensor, weights: Tensor, temperature: float = 1.0, interval: Interval = (0.0, 1.0)
    ) -> Tensor:
        """All head steps of a batch of tokens at once -> tokens (M, d).

        z (G, M, D): the condition first, then the guidance branches; they share x and the noise.
        weights (G, M), summing to 1 over G: the guided prediction is the weighted sum of the branches.
        noise (S + 1, M, d): the initial noise, then one for each of S steps (unused by deterministic heads).
        temperature multiplies the step noise; heads without step noise say what it does there.
        interval: the share of the steps, from noise to token, in which guidance counts (2404.07724); in the others the
        prediction is that of the condition alone, and the branches cost nothing.
        """

    def check_steps(self, steps: int) -> None:
        """Raises ValueError where `sample` cannot take so many steps."""


class TextHead(Part):
    """From a hidden state to a distribution over the next text token.

    Attributes:
        softcap: the logits lie softly within ± softcap; None for no bound.
    """

    softcap: float | None = None

    @abstractmethod
    def logits(self, h: Tensor, weight: Tensor) -> Tensor:
        """h (..., D), weight (V, D) -> logits (..., V), fp32."""

    @abstractmethod
    def loss(self, h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """h (M, D), weight (V, D), targets (M,) -> cross-entropy per token (M,), fp32, in nats."""


@dataclass(frozen=True)
class Detection:
    """One object found in an image: class name, confidence, mask (H, W) bool, box (x0, y0, x1, y1) in pixels."""

    name: str
    score: float
    mask: Any
    box: tuple[float, float, float, float]
    attributes: dict[str, Any] = field(default_factory=dict)


class FeatureExtractor(Recorded, ABC):
    """Pictures -> feature vectors, for scores that compare pictures with pictures.

    `name` becomes part of the scores' names: a distance means something among equal features only.
    """

    name: str

    @property
    def distance(self) -> str:
        """What a Fréchet distance on these features is called: FID on one network's only."""
        return f"frechet/{self.name}"

    def about(self) -> dict[str, Any]:
        """What else a reader of scores must know of the network."""
        return {"network": self.name}

    @abstractmethod
    def load(self) -> None:
        """Read the weights. Called before anything is drawn; raises OSError or ValueError where they are missing."""

    @abstractmethod
    def extract(self, images: Sequence[Tensor], device: torch.device) -> Tensor:
        """Images, each uint8 (3, H, W) of any size -> features (n, F), fp32, on the CPU."""


class ImageQuality(Recorded, ABC):
    """How good a picture is, in one number; `name` becomes part of scores' names."""

    name: str

    def load(self) -> None:  # noqa: B027 - a formula needs nothing
        """Read what it needs. Called before anything is drawn; raises OSError or ValueError where it is missing."""

    @abstractmethod
    def scores(self, images: Sequence[Tensor], device: torch.device) -> list[float]:
        """Images, each uint8 (3, H, W) of any size -> a score for each; higher is better."""


class Detector(Recorded, ABC):
    """Finds objects in images, for GenEval."""

    suffix: str = ""  # of scores' names, where it is not to be taken for a detector of instances

    def load(self) -> None:  # noqa: B027 - many need nothing
        """Read what it needs. Called before anything is drawn; raises OSError or ValueError where it is missing."""

    def about(self) -> dict[str, Any]:
        """What a reader of scores must know of it."""
        return {"detector": type(self).__name__}

    @abstractmethod
    def detect(self, images: Sequence[Tensor], device: torch.device) -> list[list[Detection]]:
        """Images, each uint8 (3, H, W) -> the detections in each."""


class ColourClassifier(Recorded, ABC):
    """Names the colours of detected objects, for GenEval."""

    suffix: str = ""  # of scores' names, where it is not to be taken for the official one

    def load(self) -> None:  # noqa: B027 - many need nothing
        """Read what it needs. Called before anything is drawn; raises OSError or ValueError where it is missing."""

    def about(self) -> dict[str, Any]:
        """What a reader of scores must know of it."""
        return {"colours": type(self).__name__}

    @abstractmethod
    def colours(self, image: Tensor, detections: list[Detection], device: torch.device) -> list[str]:
        """Image (3, H, W) uint8 and its detections -> one colour name for each."""
