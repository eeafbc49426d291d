"""Are drawn images distributed as real ones are? FID, and what else is read off the same features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from callbacks.blocks import Outcome, contents, file_name, settings
from callbacks.evaluator import DEFAULT_SAMPLING, FOLDER, FirstItems
from callbacks.sheet import Cell, Line
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.distributions import image_scores
from unifluid.evaluation.inception import Inception
from unifluid.evaluation.scores import Score
from unifluid.evaluation.statistics import Statistics, read_statistics
from unifluid.interfaces import FeatureExtractor
from unifluid.sequence import Example, centre_square

RESIZE = "centre square, bilinear, antialiased"  # of the real images


class FID(FirstItems):
    """Fréchet distance between drawn images and real ones: `images/fid` on Inception's features, else
    `images/frechet/NAME`.

    One image is drawn for each of the first `n` prompts. The real images are those of the same examples, centre-cropped
    and resized (bilinear, antialiased) to the size of the drawn ones, as the field does for FID-30K on COCO; or a file
    of statistics stands for them.

    Args:
        dataset: prompts and real images (task generate). The split is part of the score: COCO's train2014 and val2014
            give figures that cannot be compared.
        features: the network that looks at the images.
        n: prompts; the field draws 30,000.
        statistics: file of the real images' statistics. Where it exists it is read: our own, refused where it is of
            other images, size or network, or another project's mu and sigma, taken as it is. Where it does not, it is
            made from the real images and kept. By default it is results/PREFIX-reference.npz in the run's folder, made
            anew where it no longer fits.
        kid, precision_recall: from the features of both; a file of another project has none.
        inception_score: from Inception's logits of the drawn images.
        sampling: how images are drawn.
        prefix, seed, weights, show, every, at_end, …: see `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        features: FeatureExtractor,
        n: int | None = 30_000,
        statistics: str | None = None,
        kid: bool = False,
        precision_recall: bool = False,
        inception_score: bool = False,
        sampling: ImageSampling = DEFAULT_SAMPLING,
        prefix: str = "images",
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, sampling, n, **kwargs)
        if self.n < 2:
            raise ValueError(f"FID.n must be at least 2, a covariance needs as many; got {n}")
        if inception_score and not isinstance(features, Inception):
            raise ValueError("FID.inception_score needs the features of unifluid.evaluation.inception.Inception")
        self.features, self.statistics = features, statistics
        self.kid, self.precision_recall, self.inception_score = kid, precision_recall, inception_score
        self._real: Statistics | None = None  # None: to be made from the real images, beside the drawn ones

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.dataset.task != "generate":
            raise ValueError(f"{self.prefix}: FID needs a data set of task generate, got {self.dataset.task}")
        self.features.load()
        self._image_size = module.parts["image_tokenizer"].image_size
        default = Path(trainer.default_root_dir) / FOLDER / f"{file_name(self.prefix)}-reference.npz"
        self._path = default if self.statistics is None else Path(self.statistics)
        self._real = self._read()

    def about(self) -> dict[str, Any]:
        reference = "real images beside the drawn ones" if self._real is None else str(self._path)
        return self.features.about() | {"reference": reference, "resize": RESIZE}

    def begin(self) -> None:
        self._real = self._read()

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        images = generate_images(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        if self.inception_score:
            drawn, logits = self.features.extract_with_logits(images, module.device)
            outcomes = [{"drawn": d, "logits": x} for d, x in zip(drawn, logits, strict=True)]
        else:
            outcomes = [{"drawn": d} for d in self.features.extract(images, module.device)]
        if self._real is None:
            reals = [centre_square(item.target, images.shape[-1]) for item in items]
            for outcome, real in zip(outcomes, self.features.extract(reals, module.device), strict=True):
                outcome["real"] = real
        for outcome, image, item, i in zip(outcomes, images, items, indices, strict=True):
            outcome |= {"image": image.clone(), "prompt": item.condition} if i < self.show else {}
        return outcomes

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        drawn = torch.stack([outcome["drawn"] for outcome in outcomes])
        if self._real is None:
            self._real = self._keep(torch.stack([outcome["real"] for outcome in outcomes]))
        logits = torch.stack([outcome["logits"] for outcome in outcomes]) if self.inception_score else None
        return image_scores(drawn, self._real, self.features.distance, self.kid, self.precision_recall, logits)

    def cells(self, outcomes: list[Outcome]) -> list[Cell]:
        return [Cell([outcome["image"]], [Line(outcome["prompt"])]) for outcome in outcomes]

    @property
    def _needs_features(self) -> bool:
        return self.kid or self.precision_recall

    def _read(self) -> Statistics | None:
        """The statistics there are, None where there are none that fit. Raises ValueError where they were asked for."""
        if not self._path.exists():
            return None
        try:
            real = read_statistics(self._path)
            real.check(self._path, self._reference())
            if self._needs_features and real.features is None:
                raise ValueError(f"{self._path}: holds no features, which kid and precision_recall need")
        except ValueError:
            if self.statistics is not None:
                raise
            return None
        return real

    def _reference(self) -> dict[str, Any]:
        """What the statistics are of."""
        return {
            **self.features.about(),
            "data": settings(self.dataset),
            "files": contents(settings(self.dataset)),
            "n": self.n,
            "size": self._image_size,
            "resize": RESIZE,
        }

    def _keep(self, features: Tensor) -> Statistics:
        real = Statistics.of(features, self._reference(), keep=self._needs_features)
        real.write(self._path)
        return real
