"""Drawn pictures beside real ones: do they show what was asked, and are they distributed alike?"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.blocks import Outcome
from callbacks.evaluator import Evaluator
from callbacks.geneval import DEFAULT_SAMPLING
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.frechet import Normal, frechet_distance
from unifluid.evaluation.nearest import nearest
from unifluid.evaluation.scores import Score
from unifluid.interfaces import FeatureExtractor
from unifluid.sequence import Example

CHUNK = 1024  # pictures of the gallery in memory at once


class Resemblance(Evaluator):
    """How pictures drawn from prompts resemble real ones, in features of an independent network.

    PREFIX/LABEL: share of drawn pictures whose nearest picture in `gallery` has the label that was asked for
    PREFIX/frechet/NAME: Fréchet distance of all drawn pictures to the gallery, on the features called NAME

    Both are also reported of the data set's own pictures, as PREFIX/LABEL_real and PREFIX/frechet/NAME_real: what
    perfect drawings would get, and so what the features can tell.

    Args:
        dataset: prompts and the real pictures of what they ask for.
        gallery: real pictures to compare with, none of them in `dataset`.
        features: whose features; not of the model that is judged.
        label: field of `meta` that says what a picture shows.
        n: prompts, the first of the data set; null for all.
        sampling: how images are drawn.
        prefix, seed, weights, every, at_end: see `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        gallery: ExampleDataset,
        features: FeatureExtractor,
        label: str = "concept",
        n: int | None = None,
        sampling: ImageSampling = DEFAULT_SAMPLING,
        prefix: str = "resemblance",
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, sampling, **kwargs)
        self.n = len(dataset) if n is None else n
        if not 2 <= self.n <= len(dataset):
            raise ValueError(f"Resemblance.n must be from 2 to the {len(dataset)} examples of its data set, got {n}")
        self.gallery, self.features, self.label = gallery, features, label
        self._gallery: tuple[list[str], Tensor] | None = None

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.features.load()
        for dataset in (self.dataset, self.gallery):
            if dataset.task != "generate" or self.label not in dataset[0].meta:
                raise ValueError(f"{self.prefix}: its data sets need task generate and a meta field {self.label!r}")

    @property
    def size(self) -> int:
        return self.n

    def item(self, index: int) -> Example:
        return self.dataset[index]

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        images = generate_images(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        drawn = self.features.extract(images, module.device)
        real = self.features.extract([item.target for item in items], module.device)
        labels = [item.meta[self.label] for item in items]
        return [{"label": n, "drawn": d, "real": r} for n, d, r in zip(labels, drawn, real, strict=True)]

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        if self._gallery is None:
            self._gallery = self._read_gallery()
        labels, gallery = self._gallery
        asked, scores = [outcome["label"] for outcome in outcomes], {}
        for suffix, name in (("", "drawn"), ("_real", "real")):
            features = torch.stack([outcome[name] for outcome in outcomes])
            found = (labels[i] for i in nearest(features, gallery).tolist())
            distance = frechet_distance(Normal.of(features), Normal.of(gallery))
            scores[self.label + suffix] = Score.of(a == b for a, b in zip(asked, found, strict=True))
            scores[f"frechet/{self.features.name}{suffix}"] = Score(distance, len(features))
        return scores

    def _read_gallery(self) -> tuple[list[str], Tensor]:
        """Labels and features (N, F) of the gallery, which never change."""
        labels, features = [], []
        for start in range(0, len(self.gallery), CHUNK):
            examples = [self.gallery[i] for i in range(start, min(start + CHUNK, len(self.gallery)))]
            labels += [example.meta[self.label] for example in examples]
            features.append(self.features.extract([example.target for example in examples], self.device))
        return labels, torch.cat(features)
