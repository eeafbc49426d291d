"""One place after another of a batch of images: a backbone step, then all head steps of the tokens drawn there."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from unifluid.decoding.graphed import Recorder, Work, eager
from unifluid.decoding.prefix import prefill
from unifluid.interfaces import Cache, Interval
from unifluid.model import UniFluidModel
from unifluid.sequence import Formatter, Segment

PREFIX_MULTIPLE = 64  # where places are recorded, prefixes are padded to one, so that batches share recordings


class Places:
    """Draws the places of one batch of prompts after another.

    With a recorder other than `eager` a place is a replay: then the cache is looked at in full length, and batches of
    the same shape share cache and recordings.
    """

    def __init__(
        self, model: UniFluidModel, formatter: Formatter, temperature: float, interval: Interval, recorder: Recorder
    ):
        self.model, self.formatter, self.recorder = model, formatter, recorder
        self.how = temperature, interval
        self.cache: Cache | None = None

    def begin(self, prompts: list[Segment], ahead: Tensor | None = None) -> None:
        """Encode the prompts of a batch, those of M images for each of G branches, branch by branch.

        `ahead` (N,): see `Layout`, where places come in rounds.
        """
        n, recorded = self.model.image_tokenizer.num_tokens, self.recorder is not eager
        multiple, before = (PREFIX_MULTIPLE, self.cache) if recorded else (1, None)
        _, self.cache = prefill(self.model, self.formatter, prompts, n, ahead, multiple, before)
        if self.cache is not before:
            self.numbers = torch.arange(self.cache.length, self.cache.length + n, device=self.model.boi.device)
            self.work: Work = self.recorder(partial(place, self.model, self.cache, self.how))

    def draw(self, start: int, x: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
        """Tokens (M, m, d) of the m places from `start` on, overwritten by the next call.

        x (M, m, D): their inputs; noise (S + 1, M · m, d) and weights (G, M · m) as the head takes them.
        """
        at = () if self.recorder is eager else (self.numbers[start : start + x.shape[1]],)
        return self.work(x, noise, weights, *at)


def place(
    model: UniFluidModel,
    cache: Cache,
    how: tuple[float, Interval],
    x: Tensor,
    noise: Tensor,
    weights: Tensor,
    at: Tensor | None = None,
) -> Tensor:
    """`Places.draw`; `at` (m,): see `Backbone.forward`."""
    branches, (m, size, _) = len(weights), x.shape
    h = model.backbone(x.repeat(branches, 1, 1), cache.layout, cache, at)
    return model.image_head.sample(h.view(branches, m * size, -1), noise, weights, *how).view(m, size, -1)
