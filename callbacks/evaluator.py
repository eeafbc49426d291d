"""What every scheduled evaluation shares: weights, precision, ranks, progress, scores.json, TensorBoard, a table."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import lightning as L
import torch
from rich import print as rich_print
from rich.table import Table
from tqdm import tqdm

from callbacks.ema import Weights, live_weights
from callbacks.schedule import Scheduled, Stage
from callbacks.scores import merge_scores
from datamodules.base import ExampleDataset
from unifluid.decoding import ImageSampling, TextSampling
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.scores import Score
from unifluid.sequence import Example

T = TypeVar("T")


class Evaluator(Scheduled):
    """Judges what the model makes of fixed items, mostly as right or wrong, and reports shares with their intervals.

    Items are shared out over ranks by index and every draw is a function of (seed, index), so scores depend on neither
    batch nor world size, and are the same in `fit` and for a checkpoint.

    Args:
        dataset: where the items come from, always the same ones.
        prefix: first part of the scores' names; with `weights: raw` it gets the suffix `_raw`.
        sampling: how images or text are drawn.
        seed: of what is drawn.
        weights: which weights are judged; without an EMA callback there are only raw ones.
        every, at_end: when, see `Scheduled`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        prefix: str,
        sampling: ImageSampling | TextSampling,
        seed: int = 0,
        weights: Weights = "ema",
        every: int | None = None,
        at_end: bool = True,
    ):
        super().__init__(every, at_end)
        self.dataset, self.sampling, self.seed, self.weights = dataset, sampling, seed, weights
        self.prefix = prefix if weights == "ema" else f"{prefix}_raw"

    @abstractmethod
    def items(self) -> list[Example]:
        """All items, in a fixed order."""

    @abstractmethod
    def group(self, item: Example) -> str:
        """What an item is counted under beside the total."""

    @abstractmethod
    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Any]:
        """Let the model answer `items`, whose numbers among all items are `indices` -> an outcome for each.

        An outcome is whether the answer is right, or whatever else `summary` makes scores of; ranks exchange it.
        """

    @abstractmethod
    def summary(self, groups: dict[str, list[Any]]) -> dict[str, Score]:
        """Outcomes by group, in item order -> scores by name."""

    def run(self, trainer: L.Trainer, module: L.LightningModule, stage: Stage) -> None:
        items = self.items()
        mine = list(range(trainer.global_rank, len(items), trainer.world_size))
        with (
            live_weights(trainer, module, self.weights) as weights,
            trained_precision(trainer),
            progress_bar(trainer, self.prefix) as progress,
        ):
            judged = self.judge(module, [items[i] for i in mine], mine, progress) if mine else []
        outcomes = gather(dict(zip(mine, judged, strict=True)))
        groups = defaultdict(list)
        for i, item in enumerate(items):
            groups[self.group(item)].append(outcomes[i])
        if trainer.is_global_zero:
            self.report(trainer, self.summary(groups), weights)

    def report(self, trainer: L.Trainer, scores: dict[str, Score], weights: Weights) -> None:
        """Into scores.json, the loggers and, as a table, the terminal."""
        title = f"{self.prefix}, {weights} weights, step {self.step}"
        table = Table("score", "value", "95 % interval", "n", title=title)
        about = {"weights": weights, "step": self.step, "seed": self.seed}
        entries = {f"{name}/{self.prefix}": value for name, value in about.items()}
        entries |= {f"sampling/{self.prefix}/{k}": v for k, v in dataclasses.asdict(self.sampling).items()}
        for name, score in scores.items():
            key, interval = f"{self.prefix}/{name}", ""
            entries |= {key: score.value, f"n/{key}": score.n}
            if score.low is not None:
                entries |= {f"{key}/low": score.low, f"{key}/high": score.high}
                interval = f"{score.low:.3f} – {score.high:.3f}"
            table.add_row(name, f"{score.value:.3f}", interval, str(score.n))
        for logger in trainer.loggers:
            logger.log_metrics({f"{self.prefix}/{name}": score.value for name, score in scores.items()}, self.step)
        merge_scores(trainer.default_root_dir, entries)
        rich_print(table)


@contextmanager
def trained_precision(trainer: L.Trainer) -> Iterator[None]:
    """The trainer's precision. Lightning casts weights at every call; weights that do not change are cast once here."""
    with trainer.precision_plugin.forward_context():
        torch.set_autocast_cache_enabled(True)  # leaving autocast restores it
        yield


@contextmanager
def progress_bar(trainer: L.Trainer, title: str) -> Iterator[Progress]:
    """A bar on rank 0 where the trainer shows one and there is a terminal to show it."""
    hidden = trainer.progress_bar_callback is None or not trainer.is_global_zero
    with tqdm(desc=title, leave=False, disable=hidden or None, dynamic_ncols=True) as bar:

        def progress(done: float, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def gather(mine: dict[int, T]) -> dict[int, T]:
    """Results by index of all ranks, on every rank."""
    if not torch.distributed.is_initialized():
        return mine
    parts: list[dict[int, T]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mine)
    return {index: result for part in parts for index, result in part.items()}
