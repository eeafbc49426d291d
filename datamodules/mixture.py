"""Streams mixed at fixed counts per optimizer step, exactly resumable.

The counts are given, or shared out by weight; either way they are the same in every step. So visual tokens per step can
be held equal between a unified and a single-task run: give the streams that draw the same `rows` in both, and share
the rest of the unified run's `rows` among its text streams by weight. The streams that draw then see the very same
examples, step by step.

Global row g = step · R + r, with R rows a step. Which stream it belongs to and which example of that stream it is are
functions of (seed, g). Ranks, accumulation and workers only slice the rows, so they change no result, and a resumed
run starts at the trainer's step with nothing lost or repeated. With trainer.overfit_batches, an epoch is the first
steps, again and again, with the same draws.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import lightning as L
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.base import ExampleDataset
from unifluid import randomness
from unifluid.sequence import TEXT_TASKS, Batch, Example

MOST_WORKERS = 8  # where their number is left open


@dataclass
class Stream:
    """One source of training examples.

    Args:
        dataset: where they come from.
        rows: examples of it in every optimizer step, over all ranks and accumulated batches.
        weight: instead, its share of the rows of a step that no other stream has fixed, relative to other weights.
    """

    dataset: ExampleDataset
    rows: int | None = None
    weight: float | None = None


def share_out(streams: dict[str, Stream], rows: int | None) -> dict[str, int]:
    """Rows of each stream in every step, `rows` in all: fixed ones as given, the rest by weight.

    Shares are rounded down, and what is left goes to the largest remainders (the first stream wins a tie). Raises
    ValueError where a stream would have none.
    """
    for name, stream in streams.items():
        given = stream.weight if stream.rows is None else stream.rows
        if given is None or (stream.rows is not None and stream.weight is not None):
            raise ValueError(f"data.streams.{name} needs either rows or weight, and null for the other")
        if given <= 0:
            raise ValueError(f"data.streams.{name}: rows or weight must be above 0, got {given}")
        if stream.rows is not None and stream.rows > sys.maxsize:
            raise ValueError(f"data.streams.{name}: rows is more than can be counted, got {stream.rows}")
    counts = {name: stream.rows for name, stream in streams.items() if stream.rows is not None}
    weights = {name: stream.weight for name, stream in streams.items() if stream.weight is not None}
    if rows is None and weights:
        raise ValueError(
            f"data.rows, the rows of a step, is needed to share them by the weight of {next(iter(weights))}"
        )
    rest = 0 if rows is None else rows - sum(counts.values())
    if rest < 0 or (rest and not weights):
        raise ValueError(f"data.rows is {rows}, but the streams' own rows make {sum(counts.values())}")
    exact = {name: Fraction(weight) * rest / sum(map(Fraction, weights.values())) for name, weight in weights.items()}
    shared = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shared[name] - exact[name])
    for name in by_remainder[: rest - sum(shared.values())]:
        shared[name] += 1
    if empty := [name for name, count in shared.items() if not count]:
        raise ValueError(f"data.streams.{empty[0]}: its weight is not worth one of {rest} rows; raise it, or data.rows")
    return {name: (counts | shared)[name] for name in streams}


class MixedRows(Dataset):
    """Global row -> (global row, example). `counts`: rows of each stream in a step."""

    def __init__(self, streams: dict[str, Stream], counts: dict[str, int], seed: int):
        self.streams, self.counts, self.seed = streams, counts, seed
        self.rows_per_step = sum(counts.values())

    def __getitem__(self, row: int) -> tuple[int, Example]:
        step, r = divmod(row, self.rows_per_step)
        for name, count in self.counts.items():
            if r < count:
                dataset, seed = self.streams[name].dataset, randomness.derive(self.seed, "stream", name)
                return row, dataset[randomness.permuted_index(seed, step * count + r, len(dataset))]
            r -= count
        raise IndexError(row)


class StepSampler(Sampler[list[int]]):
    """Global rows of each micro-batch of one rank, from the current step to the end of the epoch."""

    def __init__(
        self, rows: int, steps_per_epoch: int, accumulate: int, rank: int, world: int, current_step: Callable[[], int]
    ):
        self.rows, self.steps_per_epoch, self.current_step = rows, steps_per_epoch, current_step
        self.parts, self.rank, self.accumulate, self.world = accumulate * world, rank, accumulate, world
        if rows < self.parts:
            raise ValueError(
                f"{rows} rows a step cannot be split over {world} ranks × {accumulate} accumulated batches"
            )

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        first = self.current_step()
        for step in range(first, (first // self.steps_per_epoch + 1) * self.steps_per_epoch):
            for micro in range(self.accumulate):
                part = micro * self.world + self.rank
                yield list(range(step * self.rows + part, (step + 1) * self.rows, self.parts))


class FixedRows(Dataset):
    """Validation: the first `n` examples of each set, always the same rows."""

    def __init__(self, sets: dict[str, ExampleDataset], n: int):
        self.items = [(data, i) for data in sets.values() for i in range(min(n, len(data)))]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> tuple[int, Example]:
        data, i = self.items[row]
        return row, data[i]


class Mixture(L.LightningDataModule):
    """Data module of every run: training streams by name, and validation sets for the losses.

    Args:
        streams: name → dataset and rows per optimizer step, or weight.
        validation: name → dataset; losses are measured on fixed times, noise and orders.
        validation_examples: examples of each validation set.
        validation_batch: examples in a validation batch.
        steps_per_epoch: optimizer steps that count as an epoch, since streams are endless.
        workers: loader processes; null: none where training takes the CPU's cores, else up to eight for each GPU.
        seed: of the order of examples.
        tokenizer_texts: at most this many texts train a tokenizer that needs training.
        rows: rows of a step in all, where streams have weights.
    """

    def __init__(
        self,
        streams: dict[str, Stream],
        validation: dict[str, ExampleDataset] | None = None,
        validation_examples: int = 128,
        validation_batch: int = 64,
        steps_per_epoch: int = 1000,
        workers: int | None = None,
        seed: int = 0,
        tokenizer_texts: int = 100_000,
        rows: int | None = None,
    ):
        super().__init__()
        if not streams:
            raise ValueError("data.streams needs at least one stream")
        if workers is not None and workers < 0:
            raise ValueError(f"data.workers must be at least 0, or null for what suits the machine, got {workers}")
        if min(steps_per_epoch, validation_batch) < 1 or validation_examples < 0:
            raise ValueError(
                "data.steps_per_epoch and data.validation_batch must be at least 1, validation_examples 0 or more; "
                f"got {steps_per_epoch}, {validation_batch} and {validation_examples}"
            )
        self.counts = share_out(streams, rows)
        self.streams, self.validation = streams, validation or {}
        self.validation_examples, self.validation_batch = validation_examples, validation_batch
        self.steps_per_epoch, self.workers, self.seed = steps_per_epoch, workers, seed
        self.tokenizer_texts = tokenizer_texts

    @property
    def rows_per_step(self) -> int:
        """Over all ranks and accumulated batches."""
        return sum(self.counts.values())

    @property
    def tokenizer_file(self) -> Path:
        return Path(self.trainer.default_root_dir) / "tokenizer.model"

    def prepare_data(self) -> None:
        """Where the tokenizer has no vocabulary yet, restore or train it on rank 0; all ranks read the file in `setup`.

        So tokenizer.model in the run's folder is always the one in use.
        """
        tokenizer = getattr(self.trainer.lightning_module, "text_tokenizer", None)
        if tokenizer is None or tokenizer.ready:
            return
        self.trainer.lightning_module.restore_tokenizer()
        if not tokenizer.ready:
            share = self.tokenizer_texts // len(self.streams)
            texts = [t for s in self.streams.values() for t, _ in zip(s.dataset.texts(), range(share), strict=False)]
            tokenizer.train(texts)
        self.tokenizer_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.tokenizer_file.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(tokenizer.state())
        temporary.replace(self.tokenizer_file)

    def setup(self, stage: str) -> None:
        tokenizer = getattr(self.trainer.lightning_module, "text_tokenizer", None)
        if tokenizer is not None and not tokenizer.ready:
            tokenizer.load_state(self.tokenizer_file.read_bytes())

    def train_dataloader(self) -> DataLoader:
        trainer, rows = self.trainer, MixedRows(self.streams, self.counts, self.seed)
        check_steps(trainer, self.steps_per_epoch)
        for stream in self.streams.values():
            stream.dataset.check_tokenizer(trainer.lightning_module.image_tokenizer)
        repeated = repeated_steps(trainer, self.steps_per_epoch)
        # Of a share of the epoch, a float, Lightning takes the first batches itself.
        sampler = StepSampler(
            rows.rows_per_step,
            repeated if repeated and isinstance(trainer.overfit_batches, int) else self.steps_per_epoch,
            trainer.accumulate_grad_batches,
            trainer.global_rank,
            trainer.world_size,
            lambda: trainer.global_step % repeated if repeated else trainer.global_step,
        )
        text = sum(n for name, n in self.counts.items() if self.streams[name].dataset.task in TEXT_TASKS)
        collate = trainer.lightning_module.collator(text, rows.rows_per_step - text, training=True)
        return self._loader(rows, sampler, collate)

    def val_dataloader(self) -> DataLoader | list:
        if not self.validation:
            return []
        for dataset in self.validation.values():
            dataset.check_tokenizer(self.trainer.lightning_module.image_tokenizer)
        rows = FixedRows(self.validation, self.validation_examples)
        mine = range(self.trainer.global_rank, len(rows), self.trainer.world_size)
        most = -(-len(rows) // self.trainer.world_size)  # all ranks have as many batches, some of them empty
        batches = [list(mine[i : i + self.validation_batch]) for i in range(0, most, self.validation_batch)]
        return self._loader(rows, batches, self.trainer.lightning_module.collator(training=False))

    test_dataloader = val_dataloader

    def _loader(self, rows: Dataset, batches: Sampler | list, collate: Callable[[list], Batch]) -> DataLoader:
        workers = suitable_workers(self.trainer) if self.workers is None else self.workers
        return DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=outlive_sigterm,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )


def suitable_workers(trainer: L.Trainer) -> int:
    """Loader processes for each of the `trainer`'s own."""
    if trainer.strategy.root_device.type == "cpu":
        return 0
    return min(MOST_WORKERS, suggested_max_num_workers(trainer.num_devices))


def check_steps(trainer: L.Trainer, steps_per_epoch: int) -> None:
    """The rows of a step are shared out over a fixed number of batches, and an epoch ends with a step."""
    for callback in trainer.callbacks:
        if isinstance(callback, GradientAccumulationScheduler) and len(callback.scheduling) > 1:
            raise ValueError(
                "GradientAccumulationScheduler: the rows of a step are fixed, so a schedule would change nothing but "
                "speed; give trainer.accumulate_grad_batches"
            )
    parts = trainer.accumulate_grad_batches
    for name in ("overfit_batches", "limit_train_batches"):
        value = getattr(trainer, name)
        batches = limited(value, steps_per_epoch * parts)
        if value and not batches:
            raise ValueError(
                f"trainer.{name} {value} of {steps_per_epoch * parts} batches is none: give a number of batches"
            )
        if batches > sys.maxsize:
            raise ValueError(f"trainer.{name} {value} is more batches than can be counted")
        if batches % parts:
            raise ValueError(f"trainer.{name} {value} ends inside a step of accumulate_grad_batches {parts} batches")


def limited(value: float, batches: int) -> int:
    """How many batches Lightning takes where it is told `value`: a number, or as a float a share of the `batches`."""
    return int(value * batches) if isinstance(value, float) else value


def repeated_steps(trainer: L.Trainer, steps_per_epoch: int) -> int:
    """How many steps `trainer.overfit_batches`, a number of batches or a share of an epoch, repeats; 0 for none."""
    parts = trainer.accumulate_grad_batches
    return limited(trainer.overfit_batches, steps_per_epoch * parts) // parts


def outlive_sigterm(worker: int) -> None:
    """Schedulers send SIGTERM to all processes of a job: the main one saves, and ends its loader's workers then."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """Where an error left workers running, multiprocessing would send them SIGTERM at exit and wait for ever."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
