"""From examples to prefix-LM sequences: how each task is laid out, and what a batch holds.

Every task is one *segment*: a bidirectional prefix, then a causal suffix.

    caption, answer   [image features][bos question separator]      | [answer eos]           loss: text
    generate          [bos prompt separator]                        | [BOI][image tokens]    loss: image tokens
    edit              [image features][bos instruction separator]   | [BOI][image tokens]    loss: image tokens

BOI and every image token also carry the position embedding of the token they must predict next, so any order can be
trained in one causal pass. The last image token predicts nothing and nothing may see it, so it is left out. Where an
image is drawn in rounds of several tokens, the places of a round carry the tokens of the round before, and BOI where
those are fewer. `packing` puts several segments into one row of L positions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unifluid import randomness
from unifluid.interfaces import TextTokenizer
from unifluid.layout import Layout

Task = Literal["caption", "answer", "generate", "edit"]
TASKS: tuple[Task, ...] = ("caption", "answer", "generate", "edit")
TEXT_TASKS: tuple[Task, ...] = ("caption", "answer")  # the others draw an image
Order = Literal["random", "raster"] | list[int]  # drawn for each image, row-major, or the permutation given


@dataclass
class Example:
    """One line of data, in a JSONL file or in memory. Images are uint8 (3, H, W), of any size.

    Args:
        id: names the example in messages and results.
        task: caption, answer, generate or edit.
        image: what is looked at: caption, answer, edit; a tuple of several is looked at together.
        target: what is to be drawn: generate, edit.
        prompt: the sentence to draw; for captions what is asked ("caption en").
        question: for answers.
        answers: right ones; the first is learned.
        caption: what is to be written of the image.
        instruction: for edits.
        meta: ground truth for evaluation; never seen by the model.
        moments: instead of `target`, what the image tokenizer makes of it (`datamodules.moments`).
    """

    id: str
    task: Task
    image: Tensor | tuple[Tensor, ...] | None = None
    target: Tensor | None = None
    prompt: str | None = None
    question: str | None = None
    answers: tuple[str, ...] = ()
    caption: str | None = None
    instruction: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    moments: Tensor | None = None

    @property
    def images(self) -> tuple[Tensor, ...]:
        """The images looked at, as a tuple."""
        if self.image is None:
            return ()
        return self.image if isinstance(self.image, tuple) else (self.image,)

    @property
    def condition(self) -> str:
        """The text of the prefix."""
        text = {"answer": self.question, "edit": self.instruction}.get(self.task, self.prompt)
        return text or ""

    @property
    def response(self) -> str | None:
        """The text of the suffix, None where an image is asked for."""
        if self.task not in TEXT_TASKS:
            return None
        return self.caption if self.task == "caption" else self.answers[0]


@dataclass
class Segment:
    """One example laid out: prefix (images, then text ids) and suffix (text ids, or a target image with its order)."""

    row: int  # global row: every draw of this example is a function of (seed, row)
    task: Task
    images: tuple[Tensor, ...]  # each (3, H, W) in [-1, 1], at the encoder's size
    prefix_ids: list[int]
    suffix_ids: list[int] = field(default_factory=list)
    target: Tensor | None = None  # (3, H, W) in [-1, 1], at the image tokenizer's size; or its
    moments: Tensor | None = None  # moments (...), stored beforehand
    order: Tensor | None = None  # (N,) permutation: the order in which image tokens are generated
    rounds: int | None = None  # in which they are generated; None: one each


@dataclass
class Batch:
    """Packed rows (B, L) and, as flat indices into B·L, where everything goes and is predicted from."""

    layout: Layout
    text_ids: Tensor  # (n_text,)
    text_index: Tensor  # (n_text,) where text ids are embedded
    images: Tensor  # (n_images, 3, H, W) for the encoder
    image_index: Tensor  # (n_images, M) where their features go
    targets: Tensor  # (n_pictures, 3, H, W) for the image tokenizer: the first of the n_targets; of the others there
    moments: Tensor | None  # are moments (n_targets - n_pictures, ...); None where every target is a picture
    target_index: Tensor  # (n_targets, N) BOI and the tokens but the last: position k predicts token order[k]
    orders: Tensor  # (n_targets, N)
    carried: Tensor | None  # (n_targets, N) which token each target position carries; None: that of the place before
    target_rows: list[int]  # (n_targets) global rows
    label_index: Tensor  # (n_labels,) positions that predict text
    labels: Tensor  # (n_labels,) the ids they must predict
    label_weight: Tensor  # (n_labels,) 1 / (labels of its example): a sum is a sum of per-example means
    label_example: Tensor  # (n_labels,) which text example of this batch a label belongs to
    text_tasks: list[Task]  # task of each text example
    target_tasks: list[Task]  # task of each target image
    text_rows_in_step: float  # text examples of the whole optimizer step, over ranks and accumulation
    image_rows_in_step: float
    ids: list[str] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Batch:
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """In memory that a GPU reads by itself; the loader asks for it."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, layout=self.layout.map(change), **tensors)

    def __getstate__(self) -> tuple[dict[str, Any], dict[str, tuple[torch.dtype, torch.Size]], Tensor]:
        """All tensors as the bytes of one: from process to process each takes a connection of its own, and handling
        those keeps the process that trains from launching kernels."""
        state = vars(self) | vars(self.layout)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        # Larger elements first, so that all begin at multiples of their size.
        names = sorted(tensors, key=lambda name: tensors[name].element_size(), reverse=True)
        joined = torch.cat([tensors[name].flatten().view(torch.uint8) for name in names])
        kinds = {name: (tensors[name].dtype, tensors[name].shape) for name in names}
        return {name: value for name, value in state.items() if name not in ("layout", *names)}, kinds, joined

    def __setstate__(self, state: tuple[dict[str, Any], dict[str, tuple[torch.dtype, torch.Size]], Tensor]) -> None:
        rest, kinds, joined = state
        parts = joined.split([dtype.itemsize * shape.numel() for dtype, shape in kinds.values()])
        named = zip(kinds.items(), parts, strict=True)
        tensors = {name: part.view(dtype).view(shape) for (name, (dtype, shape)), part in named}
        state = rest | tensors
        layout = Layout(*(state.pop(f.name) for f in dataclasses.fields(Layout)))
        vars(self).update(state, layout=layout)

    @property
    def padding(self) -> float:
        """Share of positions that are padding."""
        return (self.layout.segments == 0).float().mean().item()


def to_unit(image: Tensor, size: int) -> Tensor:
    """uint8 image (3, H, W) -> float (3, size, size) in [-1, 1]: square bilinear resize, as PaliGemma does."""
    x = image.float()
    if image.shape[-2:] != (size, size):
        x = interpolate(x[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return (x / 127.5 - 1).clamp(-1, 1)


def to_uint8(image: Tensor) -> Tensor:
    """Float image (..., 3, H, W) in [-1, 1] -> uint8; undoes `to_unit`."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def centre_square(image: Tensor, size: int) -> Tensor:
    """uint8 (3, H, W) -> the largest square in its middle, resized (bilinear, antialiased) to uint8 (3, size, size)."""
    side = min(image.shape[-2:])
    top, left = ((length - side) // 2 for length in image.shape[-2:])
    return to_uint8(to_unit(image[:, top : top + side, left : left + side], size))


def make_order(order: Order, n: int, generator: torch.Generator) -> Tensor:
    """A permutation (N,): drawn, row-major, or the one given."""
    if isinstance(order, list):
        if not all(isinstance(i, int) for i in order) or sorted(order) != list(range(n)):
            raise ValueError(f"order must be a permutation of 0…{n - 1}, got {order}")
        return torch.tensor(order)
    if order == "raster":
        return torch.arange(n)
    if order == "random":
        return torch.randperm(n, generator=generator)
    raise ValueError(f"order must be random, raster or a permutation, got {order!r}")


def round_sizes(n: int, rounds: int) -> list[int]:
    """How many of `n` image tokens each round draws: by MAR's cosine (2406.11838), never fewer than the one before.

    Raises ValueError unless 1 <= rounds <= n.
    """
    if not 1 <= rounds <= n:
        raise ValueError(f"an image of {n} tokens is drawn in 1 to {n} rounds, not {rounds}")
    left = n
    sizes = []
    for i in range(1, rounds):
        after = min(left - 1, int(n * math.cos(math.pi / 2 * i / rounds)))
        after = max(after, rounds - i)  # a token at least for every round to come
        sizes.append(left - after)
        left = after
    return sorted([*sizes, left])


def round_layout(sizes: list[int]) -> tuple[Tensor, Tensor]:
    """For the N places of an image drawn in rounds of `sizes`: the token each carries, −1 for none, and how many places
    of its own round come after it.

    A round's places carry the tokens of the round before, so all they see are tokens of earlier rounds.
    """
    carried, ahead, before = [], [], range(0)
    for size in sizes:
        carried += [*before, *[-1] * (size - len(before))]
        ahead += range(size - 1, -1, -1)
        before = range(len(ahead) - size, len(ahead))
    return torch.tensor(carried), torch.tensor(ahead)


@dataclass
class Formatter:
    """Lays examples out as segments: tokenises, resizes, draws order and dropout. Picklable, for loader workers."""

    tokenizer: TextTokenizer
    target_size: int  # pixels of the image tokenizer
    num_target_tokens: int
    image_size: int  # pixels of the image encoder
    num_image_tokens: int
    seed: int = 0
    order: Order = "random"
    max_prefix: int = 128  # text ids; longer text is cut
    max_suffix: int = 128
    prompt_dropout: float = 0.0  # classifier-free guidance: the prompt or instruction becomes empty
    source_dropout: float = 0.0  # edits: the source image is left out, independently
    causal_prefix: bool = False  # a position of a prefix sees those before it only
    rounds: tuple[int, ...] = ()  # an image is drawn in as many as one of these; none: a token at a time

    def prefix(self, text: str) -> list[int]:
        """Ids of a prefix: bos, text, separator. The empty text is the null prompt of guidance."""
        ids = self.tokenizer.encode(text)[: self.max_prefix] if text else []
        return [self.tokenizer.bos, *ids, self.tokenizer.separator]

    def prompt(self, example: Example, row: int = 0, text: bool = True, source: bool = True) -> Segment:
        """The prefix of `example` alone, where decoding starts; without its text or its source images if so asked."""
        images = tuple(to_unit(image, self.image_size) for image in example.images) if source else ()
        return Segment(row, example.task, images, self.prefix(example.condition if text else ""))

    def segment(self, example: Example, row: int) -> Segment:
        """`example` as global row `row`, with the dropout and order that belong to that row."""
        if example.response is not None:
            segment = self.prompt(example, row)
            segment.suffix_ids = [*self.tokenizer.encode(example.response)[: self.max_suffix], self.tokenizer.eos]
            return segment
        text, source = torch.rand(2, generator=randomness.generator(self.seed, "dropout", row)).tolist()
        segment = self.prompt(example, row, text >= self.prompt_dropout, source >= self.source_dropout)
        segment.moments = example.moments
        if example.moments is None:
            segment.target = to_unit(example.target, self.target_size)
        order_generator = randomness.generator(self.seed, "order", row)
        segment.order = make_order(self.order, self.num_target_tokens, order_generator)
        if self.rounds:
            chosen = torch.randint(len(self.rounds), (), generator=randomness.generator(self.seed, "rounds", row))
            segment.rounds = self.rounds[chosen]
        return segment

    def round_layout(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """`round_layout` of a segment's image."""
        n = self.num_target_tokens
        return round_layout(round_sizes(n, n if segment.rounds is None else segment.rounds))

    def prefix_length(self, segment: Segment) -> int:
        return len(segment.images) * self.num_image_tokens + len(segment.prefix_ids)

    def length(self, segment: Segment) -> int:
        """Positions a segment takes. The last id of the suffix is only predicted, never read."""
        suffix = self.num_target_tokens if segment.order is not None else max(len(segment.suffix_ids) - 1, 0)
        return self.prefix_length(segment) + suffix
