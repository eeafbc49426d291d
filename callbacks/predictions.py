"""What a model makes of data sets: captions, answers, pictures, edits, by id."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from callbacks import records
from callbacks.blocks import Outcome, file_name
from callbacks.ema import Weights
from callbacks.evaluator import DEFAULT_SAMPLING, FirstItems
from callbacks.sheet import save
from callbacks.texts import GREEDY
from datamodules.base import ExampleDataset
from datamodules.images import to_image
from unifluid.decoding import ImageSampling, TextSampling, generate_images, generate_text
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.scores import Score
from unifluid.interfaces import Recorded
from unifluid.sequence import TEXT_TASKS, Example

FOLDER = "predictions"  # in the run's folder: NAME.jsonl, a line for each example, and NAME/ with pictures


@dataclass
class PredictionSettings(Recorded):
    """What `unifluid predict` makes.

    Args:
        n: examples of each data set, from the first; null for all.
        images: how pictures are drawn.
        texts: how captions and answers are written.
        weights: ema or raw.
    """

    n: int | None = 1000
    images: ImageSampling = DEFAULT_SAMPLING
    texts: TextSampling = GREEDY
    weights: Weights = "ema"


class Predictions(FirstItems):
    """Answers the examples of one data set and judges nothing.

    predictions/NAME.jsonl has a line for each: its id, what was asked, and `text` or the `file` of a picture. Goes on
    where it was interrupted, and is shared out over ranks, as evaluations are.
    """

    scored = False
    setting = "predictions.images"

    def __init__(self, dataset: ExampleDataset, prefix: str, settings: PredictionSettings):
        sampling = settings.texts if dataset.task in TEXT_TASKS else settings.images
        n = None if settings.n is None else min(settings.n, len(dataset))
        super().__init__(dataset, prefix, sampling, n, weights=settings.weights, show=0)

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._folder = Path(trainer.default_root_dir) / FOLDER

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        make = generate_text if self.dataset.task in TEXT_TASKS else generate_images
        made = make(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        outcomes = []
        for i, item, one in zip(indices, items, made, strict=True):
            outcome = {"id": item.id, "task": item.task, "asked": item.condition}
            if isinstance(one, str):
                outcomes.append(outcome | {"text": one})
            else:
                file = f"{file_name(self.prefix)}/{i:06d}.png"
                save(to_image(one), self._folder / file)
                outcomes.append(outcome | {"file": file})
        return outcomes

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        return {}

    def write(self, folder: Path, name: str, outcomes: list[Outcome]) -> None:
        path = self._folder / f"{name}.jsonl"
        records.write(path, "".join(json.dumps(outcome, ensure_ascii=False) + "\n" for outcome in outcomes))
        rank_zero_info(f"{len(outcomes)} predictions in {path}")


def predictions(data: Any, settings: PredictionSettings) -> list[Predictions]:
    """One for each validation set. Raises ValueError where there is none."""
    sets = getattr(data, "validation", None)
    if not sets:
        raise ValueError("predict: data.init_args.validation names no data to answer")
    return [Predictions(dataset, name, settings) for name, dataset in sets.items()]
