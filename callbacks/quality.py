"""How good drawn pictures are, beside real ones."""

from __future__ import annotations

from typing import Any

import lightning as L

from callbacks.blocks import Outcome
from callbacks.evaluator import DEFAULT_SAMPLING, FirstItems
from callbacks.sheet import FAINT, Cell, Line
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.scores import Score
from unifluid.interfaces import ImageQuality
from unifluid.sequence import Example

PERCENTILES = (10, 50, 90)


class Quality(FirstItems):
    """`quality/NAME`: mean score of pictures drawn from the first `n` prompts, with its distribution as
    `quality/NAME/p10`, `p50` and `p90`; `quality/NAME/real` is the mean of the data set's own pictures.

    Args:
        dataset: prompts and real pictures (task generate).
        quality: how good a picture is.
        n: prompts; null for all.
        sampling: how images are drawn.
        prefix, seed, weights, show, every, at_end, …: see `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        quality: ImageQuality,
        n: int | None = 500,
        sampling: ImageSampling = DEFAULT_SAMPLING,
        prefix: str = "quality",
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, sampling, n, **kwargs)
        self.quality = quality

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.dataset.task != "generate":
            raise ValueError(f"{self.prefix}: Quality needs a data set of task generate, got {self.dataset.task}")
        self.quality.load()

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        images = generate_images(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        drawn = self.quality.scores(list(images), module.device)
        real = self.quality.scores([item.target for item in items], module.device)
        outcomes = [{"drawn": a, "real": b} for a, b in zip(drawn, real, strict=True)]
        for outcome, image, item, i in zip(outcomes, images, items, indices, strict=True):
            outcome |= {"image": image.clone(), "prompt": item.condition} if i < self.show else {}
        return outcomes

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        name, drawn = self.quality.name, sorted(outcome["drawn"] for outcome in outcomes)
        scores = {name: Score.of_values(outcome["drawn"] for outcome in outcomes)}
        for percent in PERCENTILES:
            scores[f"{name}/p{percent}"] = Score(drawn[(len(drawn) - 1) * percent // 100], len(drawn))
        return scores | {f"{name}/real": Score.of_values(outcome["real"] for outcome in outcomes)}

    def cells(self, outcomes: list[Outcome]) -> list[Cell]:
        def words(outcome: Outcome) -> list[Line]:
            return [Line(outcome["prompt"]), Line(f"{self.quality.name} {outcome['drawn']:.1f}", FAINT)]

        return [Cell([outcome["image"]], words(outcome)) for outcome in outcomes]
