"""What the drawing of a picture consists of, as pieces that can be timed: for `decode`, `scaling` and `gpu`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.models import make_formatter, prompts
from benchmarks.textbook import DiffusionLoop, bidirectional
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.graphed import Recorder, eager
from unifluid.decoding.prefix import prefill
from unifluid.model import UniFluidModel
from unifluid.packing import pack_prompts
from unifluid.sequence import Segment

PREFIX, GUIDANCE = 64, 2.9  # MAR has 64 positions for its condition


@dataclass
class Drawing:
    """A batch of pictures to draw. `whole` has all places; `part` has few of them and is made of the same parts."""

    whole: UniFluidModel
    part: UniFluidModel
    batch: int
    steps: int
    int8: bool = False

    def __post_init__(self) -> None:
        self.sampling = ImageSampling(self.steps, GUIDANCE, order="random", batch_size=self.batch, int8=self.int8)
        self.examples = prompts(self.batch, PREFIX, vocabulary=min(1000, self.whole.backbone.vocab_size))
        self.formatter = make_formatter(self.whole)
        self.places, self.channels = self.whole.image_tokenizer.num_tokens, self.whole.image_tokenizer.token_dim
        self.device, self.width = self.whole.boi.device, self.whole.backbone.width
        self.mar = DiffusionLoop(self.whole.image_head, self.steps)

    def tokens(self, model: UniFluidModel) -> Tensor:
        """What `generate_images` draws with one of both models, before it is decoded: (M, N, d)."""
        last = []

        def watch(tokens: Tensor, _: Tensor) -> None:
            last[:] = [tokens]

        generate_images(model, make_formatter(model), self.examples, self.sampling, seed=0, watch=watch)
        return last[0].clone()

    def place_seconds(self, recorder: Recorder | None = None) -> float:
        """Median seconds of a place as `generate_images` draws it, the first and its prefix left out."""
        stamps: list[float] = []

        def stamp(done: float, n: int) -> None:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

        arguments = self.part, make_formatter(self.part), self.examples, self.sampling
        generate_images(*arguments, seed=0, progress=stamp, recorder=recorder)
        return statistics.median(b - a for a, b in zip(stamps, stamps[1:], strict=False))

    def segments(self) -> list[Segment]:
        """The prompts, with and without their text."""
        return [self.formatter.prompt(e, text=text) for text in (True, False) for e in self.examples]

    def prefix(self) -> Tensor:
        return prefill(self.whole, self.formatter, self.segments(), self.places)[0]

    def backbone_step(self, drawn: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """The step after `drawn` tokens, with a cache and without one; both give its hidden state (G·M, D)."""
        model, rows = self.whole, 2 * self.batch
        order = torch.arange(self.places, device=self.device).expand(rows, -1)
        inputs = model.target_inputs(self.normal(rows, self.places, self.channels), order)[:, : drawn + 1]
        _, cache = prefill(model, self.formatter, self.segments(), self.places)
        seen = cache.length + drawn
        layout = cache.layout.map(lambda t: t[:, : seen + 1])
        prompt = model.embed(pack_prompts(self.segments(), self.formatter).to(self.device))
        inputs = inputs.to(prompt.dtype)
        if drawn:
            model.backbone(inputs[:, :drawn], cache.layout, cache)

        def step() -> Tensor:
            cache.length = seen
            return model.backbone(inputs[:, drawn:], cache.layout, cache)[:, -1]

        return step, lambda: model.backbone(torch.cat([prompt, inputs], 1), layout)[:, -1]

    def head(self, at_once: int = 1, recorder: Recorder = eager) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """All head steps of `at_once` tokens of every picture, by our head and by MAR's loop."""
        m = self.batch * at_once
        z, noise = self.normal(2, m, self.width), self.normal(self.steps + 1, m, self.channels)
        weights = torch.tensor([[GUIDANCE], [1 - GUIDANCE]], device=self.device).expand(-1, m)
        sample = recorder(self.whole.image_head.sample)
        return lambda: sample(z, noise, weights), lambda: self.mar(z, noise, weights)

    def embedded_prefix(self) -> Tensor:
        """What masked decoding, which is measured for its cost only, has for a prefix."""
        ids = torch.zeros(2 * self.batch, PREFIX, dtype=torch.long, device=self.device)
        return self.whole.backbone.embed(ids)

    def bidirectional_pass(self) -> Callable[[], Tensor]:
        prefix, places = self.embedded_prefix(), self.normal(2 * self.batch, self.places, self.width)
        return lambda: bidirectional(self.whole, prefix, places)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(self.device)
