"""What a training step costs, from a model without weights: nothing is computed and no memory is used.

FLOPs are counted by torch as the step is traced, forward and backward: noise copies, attention, convolutions and
frozen parts are what they are. Activations are the tensors autograd keeps. Memory is arithmetic on top of both.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from unifluid.layout import Layout
from unifluid.model import UniFluidModel
from unifluid.packing import pack
from unifluid.sequence import TEXT_TASKS, Batch, Formatter, Segment, Task

SPREAD = (0.5, 0.75, 1.0, 1.25, 1.5)  # lengths of texts around their mean, in turn


@dataclass
class Texts:
    """Mean ids of a text, without bos, separator and eos (**assumed**: rows of about 390 and 300 positions)."""

    prompt: int = 128  # of what is to be drawn or edited
    question: int = 16
    answer: int = 24


def example_batch(formatter: Formatter, tasks: list[Task], texts: Texts, row_length: int) -> Batch:
    """A packed batch of one example of each of `tasks`, of blank pictures and texts of spread lengths."""
    image = torch.zeros(3, formatter.image_size, formatter.image_size)
    target = torch.zeros(3, formatter.target_size, formatter.target_size)
    order = torch.arange(formatter.num_target_tokens)
    segments = []
    for row, task in enumerate(tasks):
        drawn, factor = task not in TEXT_TASKS, SPREAD[row % len(SPREAD)]
        prefix = min(round(factor * (texts.prompt if drawn else texts.question)), formatter.max_prefix)
        suffix = min(round(factor * texts.answer), formatter.max_suffix)
        segments.append(
            Segment(
                row,
                task,
                images=() if task == "generate" else (image,),
                prefix_ids=[0] * (prefix + 2),
                suffix_ids=[] if drawn else [0] * (suffix + 1),
                target=target if drawn else None,
                order=order if drawn else None,
            )
        )
    return pack(segments, formatter, row_length)


@dataclass
class Traced:
    """One forward and backward pass: FLOPs by part, and bytes kept in between, in all and for each heavy layer."""

    flops: dict[str, float]
    kept: int
    layers: list[tuple[int, int]]  # of each backbone layer: bytes kept, bytes of its input


def trace(model: UniFluidModel, batch: Batch, copies: int, mixed: bool) -> Traced:
    """Trace a step of `model`, whose parameters may be on the meta device; `mixed`: under autocast to bf16.

    Tensors pretend to be on a CPU, since code asks for their device and whether autocast is on for it.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    model, batch = pretended(model, fake), pretended_batch(batch, fake)
    with fake:
        tokenizer = model.image_tokenizer
        count, n, d = len(batch.targets), tokenizer.num_tokens, tokenizer.token_dim
        with FlopCounterMode(display=False) as encoding, torch.no_grad():
            tokens = tokenizer.tokens(tokenizer.encode(batch.targets), torch.empty(count, n, d))
        u, noise = torch.empty(count, copies, n), torch.empty(count, copies, n, d)
        kept = Kept(model, {batch.layout.segments.shape[1], model.image_encoder.num_tokens})
        with FlopCounterMode(display=False) as counter:
            with kept.watching(), torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False):
                losses = model(batch, tokens, u, noise)
                loss = losses.text.sum() + losses.image.sum()
            loss.backward()
    counts = {name: float(sum(ops.values())) for name, ops in counter.get_flop_counts().items()}
    root = type(model).__name__
    flops = {part: counts.get(f"{root}.{part}", 0.0) for part in ("backbone", "image_encoder")}
    flops["image_head"] = sum(v for k, v in counts.items() if k.startswith(f"{root}.image_head.") and k.count(".") == 2)
    flops["text_head, projections"] = counts["Global"] - sum(flops.values())
    flops["image_tokenizer"] = float(encoding.get_total_flops())
    return Traced(flops, kept.total, kept.layers)


def pretended(model: UniFluidModel, mode: FakeTensorMode) -> UniFluidModel:
    """A copy whose parameters and buffers are fake."""

    def fake(tensor: Tensor) -> Tensor:
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty

    with mode:
        made = {id(t): fake(t) for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, made)


def pretended_batch(batch: Batch, mode: FakeTensorMode) -> Batch:
    def fake(part: Any) -> Any:
        if isinstance(part, Layout):
            return part.map(mode.from_tensor)
        return mode.from_tensor(part) if isinstance(part, Tensor) else part

    return Batch(**{f.name: fake(getattr(batch, f.name)) for f in dataclasses.fields(batch)})


class Kept:
    """Adds up what autograd keeps: every storage once, no parameters, no attention scores (`squares` × `squares`),
    which the kernels of GPUs do not keep."""

    def __init__(self, model: UniFluidModel, squares: set[int]):
        self.squares, self.total, self.layers = squares, 0, []
        self.seen = {StorageWeakRef(t.untyped_storage()): t for t in (*model.parameters(), *model.buffers())}
        self.model = model

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        hooks = []
        for layer in self.model.backbone.layers():
            hooks += [layer.register_forward_pre_hook(self._enter), layer.register_forward_hook(self._leave)]
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda t: t):
            yield
        for hook in hooks:
            hook.remove()

    def _pack(self, tensor: Tensor) -> Tensor:
        scores = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] and tensor.shape[-1] in self.squares
        storage = StorageWeakRef(tensor.untyped_storage())
        if not scores and storage not in self.seen:
            self.seen[storage] = tensor  # kept alive, so that its address is not given away again
            self.total += tensor.untyped_storage().nbytes()
        return tensor

    def _enter(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._before = self.total

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.layers.append((self.total - self._before, inputs[0].numel() * inputs[0].element_size()))


@dataclass
class Sizes:
    """Numbers of a model: parameters in all and trained, of parts, and what FSDP2 keeps whole while it runs."""

    parts: dict[str, tuple[int, int]]  # all, trained
    tokenizer: int
    gathered: int  # outside of heavy layers
    largest_layer: int

    @classmethod
    def of(cls, model: UniFluidModel) -> Sizes:
        parts = {name: _count(part) for name, part in model.named_children()}
        rest = [p for name, p in model.named_parameters(recurse=False)]
        parts["positions and boi"] = (sum(p.numel() for p in rest), sum(p.numel() for p in rest if p.requires_grad))
        total, tokenizer = sum(n for n, _ in parts.values()), parts["image_tokenizer"][0]
        layers = [_count(layer)[0] for layer in model.layers()] or [0]
        return cls(parts, tokenizer, total - tokenizer - sum(layers), max(layers))

    @property
    def total(self) -> int:
        return sum(n for n, _ in self.parts.values())

    @property
    def trained(self) -> int:
        return sum(n for _, n in self.parts.values())


def _count(module: nn.Module) -> tuple[int, int]:
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def memory(sizes: Sizes, activations: float, mixed: bool, ema: bool, devices: int = 1) -> dict[str, float]:
    """Bytes on one GPU, fp32 weights with AdamW, by what they are for. `devices` > 1: sharded over them by FSDP2.

    DDP needs as much as one GPU: gradients are views of its buckets (experiments/strategy/ddp.yaml).
    """
    whole, trained = sizes.total - sizes.tokenizer, sizes.trained
    needs = {
        "weights": 4 * whole / devices + 4 * sizes.tokenizer,
        "gradients": 4 * trained / devices,
        "optimizer": 8 * trained / devices,
        "EMA": 4 * trained / devices if ema else 0.0,
    }
    if devices == 1:  # autocast keeps what it casts for the backward pass
        needs["bf16 weights"] = 2.0 * whole if mixed else 0.0
    else:  # two layers at a time, one computing and one on its way, with one's gradients; all else throughout
        needs["gathered"] = 8.0 * sizes.gathered + sizes.largest_layer * ((2 * 2 if mixed else 2 * 4) + 4)
    return needs | {"activations": activations}
