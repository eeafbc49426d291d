"""Text-to-image prompts, judged by GenEval's rules."""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning as L

from callbacks.blocks import Outcome, grouped
from callbacks.evaluator import Evaluator
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.geneval import TAGS, score_image, summary
from unifluid.evaluation.scores import Score
from unifluid.interfaces import ColourClassifier, Detector
from unifluid.sequence import Example

DEFAULT_SAMPLING = ImageSampling()
SEARCH = 100  # prompts are looked for among the first SEARCH · n examples: synthetic data sets are endless


class GenEval(Evaluator):
    """`geneval/TAG`, and `geneval/overall` where all six tags are asked for: shares of images that show what was asked.

    The data set's examples carry GenEval's metadata (`tag`, `include`, `exclude`) in `meta`.

    Args:
        detector, colours: who looks at the images: networks for photographs, the analyser for synthetic scenes.
        n: prompts of each tag, the first that the data set has; all it has where they are fewer.
        images_per_prompt: images drawn for each of them (the paper: 4).
        tags: which of GenEval's six categories to ask for.
        sampling: how images are drawn.
        dataset, prefix, seed, weights, every, at_end: see `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        detector: Detector,
        colours: ColourClassifier,
        n: int = 200,
        images_per_prompt: int = 1,
        tags: tuple[str, ...] = TAGS,
        sampling: ImageSampling = DEFAULT_SAMPLING,
        prefix: str = "geneval",
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, sampling, **kwargs)
        if min(n, images_per_prompt) < 1:
            raise ValueError(f"GenEval needs n and images_per_prompt of at least 1, got {n} and {images_per_prompt}")
        if not tags or not set(tags) <= set(TAGS):
            raise ValueError(f"GenEval.tags must be some of {', '.join(TAGS)}, got {', '.join(tags) or 'none'}")
        self.detector, self.colours = detector, colours
        self.n, self.images_per_prompt, self.tags = n, images_per_prompt, tuple(tags)

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Find the prompts before anything else runs. Raises ValueError where there is none of a tag."""
        missing, self._chosen = Counter(dict.fromkeys(self.tags, self.n)), list[int]()
        for i in range(min(len(self.dataset), SEARCH * self.n)):
            if not missing.total():
                break
            if missing[tag := self.dataset[i].meta.get("tag", "none")] > 0:
                missing[tag] -= 1
                self._chosen.append(i)
        absent = [tag for tag in self.tags if missing[tag] == self.n]
        if absent:
            raise ValueError(f"{self.prefix}: no {', '.join(absent)} prompt in its data set: set tags to what it has")

    @property
    def size(self) -> int:
        return len(self._chosen) * self.images_per_prompt

    def item(self, index: int) -> Example:
        return self.dataset[self._chosen[index // self.images_per_prompt]]

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        images = generate_images(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        verdicts = [
            score_image(image, e.meta, self.detector, self.colours) for image, e in zip(images, items, strict=True)
        ]
        return [{"tag": item.meta["tag"], "right": right} for item, right in zip(items, verdicts, strict=True)]

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        return summary(grouped(outcomes, "tag", "right"))
