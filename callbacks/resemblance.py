"""Drawn pictures beside real ones: do they show what was asked, and are they distributed alike?"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.blocks import Outcome
from callbacks.evaluator import DEFAULT_SAMPLING, FirstItems
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.frechet import Normal, frechet_distance
from unifluid.evaluation.nearest import nearest
from unifluid.evaluation.scores import Score
from unifluid.interfaces import FeatureExtractor
from unifluid.sequence import Example

CHUNK = 1024  # pictures of the gallery in memory at once


class Resemblance(FirstItems):
    """How pictures drawn from prompts resemble real ones, in features of an independent network.

    PREFIX/LABEL: share of drawn pictures whose nearest picture in `gallery` has the label that was asked for
    PREFIX/frechet/NAME: Fréchet distance of all drawn pictures to the gallery, on the features called NAME

    Both are also reported of the data set's own pictures, as PREFIX/LABEL_real and PREFIX/frechet/NAME_real: what
    perfect drawings would get, and so what the features can tell.

    Args:
        dataset: prompts and the real pictures of what they ask for.
        gallery: real pictures to compare with, none of them in `dataset`.
        features: whose features; not of the model that is judged.
        distances: more features on which to measure the Fréchet distance.
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
        distances: list[FeatureExtractor] | None = None,
        n: int | None = None,
        sampling: ImageSampling = DEFAULT_SAMPLING,
        prefix: str = "resemblance",
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, sampling, n, **kwargs)
        if self.n < 2:
            raise ValueError(f"Resemblance.n must be at least 2, a covariance needs as many; got {n}")
        self.gallery, self.label = gallery, label
        self.features = [features, *(distances or [])]  # the first tells what a picture shows
        self._gallery: tuple[list[str], list[Tensor]] | None = None

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for features in self.features:
            features.load()
        for dataset in (self.dataset, self.gallery):
            if dataset.task != "generate" or self.label not in dataset[0].meta:
                raise ValueError(f"{self.prefix}: its data sets need task generate and a meta field {self.label!r}")

    def about(self) -> dict[str, Any]:
        return {"network": ", ".join(features.name for features in self.features)}

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        images = generate_images(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        drawn = self._extract(list(images), module.device)
        real = self._extract([item.target for item in items], module.device)
        outcomes = []
        for k, item in enumerate(items):
            by_network = {"drawn": [part[k] for part in drawn], "real": [part[k] for part in real]}
            outcomes.append({"label": item.meta[self.label], **by_network})
        return outcomes

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        if self._gallery is None:
            self._gallery = self._read_gallery()
        labels, galleries = self._gallery
        asked, scores = [outcome["label"] for outcome in outcomes], {}
        for suffix, name in (("", "drawn"), ("_real", "real")):
            for k, (network, gallery) in enumerate(zip(self.features, galleries, strict=True)):
                features = torch.stack([outcome[name][k] for outcome in outcomes])
                if k == 0:
                    found = (labels[i] for i in nearest(features, gallery).tolist())
                    scores[self.label + suffix] = Score.of(a == b for a, b in zip(asked, found, strict=True))
                distance = frechet_distance(Normal.of(features), Normal.of(gallery))
                scores[network.distance + suffix] = Score(distance, len(features))
        return scores

    def _extract(self, images: list[Tensor], device: torch.device) -> list[Tensor]:
        """Features (n, F) of each network."""
        return [features.extract(images, device) for features in self.features]

    def _read_gallery(self) -> tuple[list[str], list[Tensor]]:
        """Labels, and features (N, F) of each network, of the gallery, which never change."""
        labels, parts = [], []
        for start in range(0, len(self.gallery), CHUNK):
            examples = [self.gallery[i] for i in range(start, min(start + CHUNK, len(self.gallery)))]
            labels += [example.meta[self.label] for example in examples]
            parts.append(self._extract([example.target for example in examples], self.device))
        return labels, [torch.cat(part) for part in zip(*parts, strict=True)]
