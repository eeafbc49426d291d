"""What every scheduled evaluation shares: weights, precision, ranks, blocks that survive interruptions, reports."""

from __future__ import annotations

import dataclasses
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from tqdm import tqdm

from callbacks.blocks import Blocks, Outcome, contents, file_name, fingerprint, settings
from callbacks.ema import Weights, find_ema, live_weights
from callbacks.records import Record, commit, publish
from callbacks.schedule import Scheduled, Stage
from callbacks.sheet import Cell, Section, publish_sheet
from datamodules.base import ExampleDataset
from unifluid import __version__
from unifluid.decoding import ImageSampling, TextSampling
from unifluid.decoding.prefix import Progress
from unifluid.decoding.sampling import check_sampling
from unifluid.evaluation.scores import Score
from unifluid.interfaces import Recorded
from unifluid.sequence import Example

FOLDER = "results"  # in the run's folder: PREFIX.jsonl, a line for each evaluation; PREFIX.png; and what `write` adds
DEFAULT_SAMPLING = ImageSampling()
SCHEDULE = ("every", "at_end", "every_epochs", "at_start", "weights")  # say when, and how often, not what


class Evaluator(Recorded, Scheduled):
    """Judges what the model makes of fixed items, block by block, and reports scores with their intervals.

    A block is one batch: `sampling.batch_size` consecutive items. Blocks are shared out over ranks, and every draw is a
    function of (seed, index), so scores depend neither on the number of ranks nor on interruptions, and are the same in
    `fit` and for a checkpoint.

    Args:
        dataset: where the items come from, always the same ones.
        prefix: first part of the scores' names; those of raw weights have the suffix `_raw`.
        sampling: how images or text are drawn.
        seed: of what is drawn.
        weights: which weights are judged: ema, raw or both; without an EMA callback there are only raw ones.
        show: items at most of which pictures or texts are shown in TensorBoard and results/PREFIX.png.
        every, at_end, every_epochs, at_start: when, see `Scheduled`.
    """

    scored: ClassVar[bool] = True  # whether there is a record to publish

    def __init__(
        self,
        dataset: ExampleDataset,
        prefix: str,
        sampling: ImageSampling | TextSampling,
        seed: int = 0,
        weights: Weights | Literal["both"] = "ema",
        show: int = 16,
        every: int | None = None,
        at_end: bool = True,
        every_epochs: int | None = None,
        at_start: bool = False,
    ):
        super().__init__(every, at_end, every_epochs, at_start)
        if show < 0:
            raise ValueError(f"{type(self).__name__}.show must be a number of items, 0 for none, got {show}")
        self.dataset, self.prefix, self.sampling, self.seed = dataset, prefix, sampling, seed
        self.weights, self.show = weights, show
        self.device = torch.device("cpu")  # of the model, while it is judged

    # -- what a subclass says --------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of items."""

    @abstractmethod
    def item(self, index: int) -> Example:
        """Item `index`, always the same."""

    @abstractmethod
    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        """Let the model answer the `items` of one block, whose numbers among all are `indices` -> an outcome for each.

        Outcomes are kept until the last block is there: verdicts, texts or features, but pictures ("image") only of
        items whose index is below `show`.
        """

    @abstractmethod
    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        """All outcomes, in item order -> scores by name."""

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """What would stop the evaluation should stop the run before it starts. Raises OSError or ValueError."""

    def begin(self) -> None:  # noqa: B027 - most need nothing
        """Called before each evaluation, on all ranks alike: what `about` and `judge` go by is the same everywhere."""

    def about(self) -> dict[str, Any]:
        """What else a reader of the scores must know: the network, the split, a hash of the prompts, …"""
        return {}

    def cells(self, outcomes: list[Outcome]) -> list[Cell]:
        """The first `show` outcomes as pictures with words below, none where there is nothing to look at."""
        return []

    def write(self, folder: Path, name: str, outcomes: list[Outcome]) -> None:
        """Files to keep beside the record, such as captions in COCO's format of results; they begin with `name`."""

    @property
    def setting(self) -> str:
        """What messages call `sampling`."""
        return f"callbacks.{type(self).__name__}.sampling"

    # -- what all do -----------------------------------------------------------------------------------------------

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if any(self._overwrites(other) for other in trainer.callbacks if other is not self):
            raise ValueError(f"two {type(self).__name__} report as {self.prefix}: give each a prefix of its own")
        self.prepare(trainer, pl_module)

    def check(self, module: L.LightningModule) -> None:
        if isinstance(self.sampling, ImageSampling):
            check_sampling(self.sampling, module.model, module.formatter, self.setting, [self.dataset.task])

    def run(self, trainer: L.Trainer, module: L.LightningModule, stage: Stage) -> None:
        both = ("ema", "raw") if find_ema(trainer) else ("raw",)
        for weights in both if self.weights == "both" else (self.weights,):
            self._evaluate(trainer, module, stage, weights)

    def _evaluate(self, trainer: L.Trainer, module: L.LightningModule, stage: Stage, weights: Weights) -> None:
        start, prefix = time.monotonic(), self.prefix if weights == "ema" else f"{self.prefix}_raw"
        results, self.device = Path(trainer.default_root_dir) / FOLDER, module.device
        self.begin()
        with live_weights(trainer, module, weights) as live, trained_precision(trainer):
            blocks = Blocks(results / ".unfinished", prefix, self._made_by(module) | self._settings())
            self._judge_all(trainer, module, blocks, prefix)
        trainer.strategy.barrier(f"{prefix} is judged")
        scores: dict[str, Score] = {}
        if trainer.is_global_zero:
            outcomes = blocks.all(self._blocks)
            scores = self.summary(outcomes)
            if self.scored:
                seconds = time.monotonic() - start
                record = Record(prefix, scores, live, self.step, stage, self.size, seconds, self._settings())
                publish(trainer, module, record, results)
            if cells := self.cells(outcomes[: self.show]):
                path = results / f"{file_name(prefix)}.png"
                publish_sheet(trainer, prefix, [Section(prefix, cells)], path, self.step)
            self.write(results, file_name(prefix), outcomes)
            blocks.remove()
        # On all ranks alike: checkpoints are kept, and training is stopped, by these.
        for name, score in trainer.strategy.broadcast(scores).items():
            trainer.callback_metrics[f"{prefix}/{name}"] = torch.tensor(score.value)

    @property
    def _blocks(self) -> int:
        return -(-self.size // self.sampling.batch_size)

    def _settings(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "sampling": dataclasses.asdict(self.sampling),
            "data": settings(self.dataset),
        } | self.about()

    def _overwrites(self, other: L.Callback) -> bool:
        """Whether scores of the same names would be the other's. (CIDEr and CaptionAccuracy may share a prefix.)"""
        if type(other) is not type(self) or file_name(other.prefix) != file_name(self.prefix):
            return False
        return other.weights == self.weights or "both" in (other.weights, self.weights)

    def _made_by(self, module: L.LightningModule) -> dict[str, Any]:
        """All that outcomes depend on, or that says which of them are kept; when it is due does not matter."""
        arguments = {name: settings(value) for name, value in self.init_args.items() if name not in SCHEDULE}
        return {
            "class": type(self).__qualname__,
            "arguments": arguments,
            "files": contents(arguments),
            "version": __version__,
            "commit": commit(),
            "weights": fingerprint(module.model),
            "items": self.size,
        }

    def _judge_all(self, trainer: L.Trainer, module: L.LightningModule, blocks: Blocks, prefix: str) -> None:
        """This rank's share of the blocks, but for those that are there already."""
        size, mine = self.sampling.batch_size, range(trainer.global_rank, self._blocks, trainer.world_size)
        missing = [block for block in mine if blocks.get(block) is None]
        if len(missing) < len(mine):
            rank_zero_info(f"{prefix} goes on: {len(mine) - len(missing)} of {len(mine)} blocks are there already")
        items = [range(block * size, min((block + 1) * size, self.size)) for block in missing]
        total, done = sum(map(len, items)), 0
        with progress_bar(trainer, prefix) as progress:
            for block, indices in zip(missing, items, strict=True):

                def report(part: float, _: int, done: int = done) -> None:
                    progress(done + part, total)

                outcomes = self.judge(module, [self.item(i) for i in indices], list(indices), report)
                blocks.put(block, outcomes)
                done += len(indices)
                progress(done, total)


class FirstItems(Evaluator):
    """An evaluator of the first `n` examples of its data set; null for all of them."""

    def __init__(self, dataset: ExampleDataset, prefix: str, sampling: Any, n: int | None = None, **kwargs: Any):
        super().__init__(dataset, prefix, sampling, **kwargs)
        if n is not None and not 1 <= n <= len(dataset):
            raise ValueError(
                f"{type(self).__name__}.n is {n}, but its data set has {len(dataset)} examples: give 1 to as many, or "
                "null for all"
            )
        self.n = len(dataset) if n is None else n

    @property
    def size(self) -> int:
        return self.n

    def item(self, index: int) -> Example:
        return self.dataset[index]


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
