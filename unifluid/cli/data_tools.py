"""data check, shard, cache: what is in a data set, and the same in forms that are faster to read."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pydoc
from collections import Counter
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.base import ExampleDataset, Source
from datamodules.formats.jsonl import write_jsonl
from datamodules.formats.rows import Problem
from datamodules.formats.skipping import inspection
from datamodules.moments import CachedMoments, write_moments
from datamodules.sharding import write_shards
from unifluid.cli.errors import Parser, condense, count
from unifluid.cli.flags import callbacks_of
from unifluid.cli.parts import image_tokenizer, instantiate, mixture, parse
from unifluid.cli.trainer import prepare, settings
from unifluid.configs import Config
from unifluid.pipeline import to_device

BATCH = 64  # rows a loader worker walks at once
NAMED = 10  # bad rows in a report
RUN = "any option of `unifluid fit` may follow: --config RUN.yaml, …"
CACHED = f"{CachedMoments.__module__}.{CachedMoments.__qualname__}", "datamodules.CachedMoments"


# -- check --------------------------------------------------------------------------------------------------------


def check(args: list[str]) -> None:
    """Read all rows, report what is left out and why. Raises ValueError for what a run would stop at."""
    parser = Parser("data check", f"Report what training will skip, and why. {RUN}; or --dataset CLASS or FILE.")
    parser.add_argument("--workers", type=int, default=0, help="processes that read")
    parser.add_argument("--list", metavar="FILE", help="write every bad row with its place and reason (JSONL)")
    options, rest = parser.parse_known_args(args)
    refusals, rows = [], []
    for name, config in _datasets(rest, scored=True).items():
        with inspection() as problems:
            try:
                dataset = instantiate(ExampleDataset, "dataset", config)
                for source in dataset.sources:
                    _walk(source, name, options.workers)
                refused = [line for source in dataset.sources if (line := source.refusal())]
            except ValueError as error:
                dataset, refused = None, [condense(str(error))]
        print(report(name, dataset, problems))
        refusals += [f"{name} ({line})" for line in refused]
        rows += [{"dataset": name, **dataclasses.asdict(problem)} for problem in problems]
    if options.list:
        write_jsonl(options.list, rows)
        print(f"{len(rows):,} bad rows are listed in {options.list}")
    if refusals:
        raise ValueError(f"not fit to train on: {'; '.join(refusals)}")


def report(name: str, dataset: ExampleDataset | None, problems: list[Problem]) -> str:
    """Counts by reason, and the first bad rows by name; None where the data set cannot be used at all."""
    if dataset is None:
        lines = [f"{name}: cannot be used"]
    elif dataset.sources:
        total = sum(source.total for source in dataset.sources)
        good = total - sum(source.skipped.total() for source in dataset.sources)
        lines = [f"{name}: {good:,} of {total:,} {dataset.task} rows are good"]
    else:
        lines = [f"{name}: {len(dataset):,} {dataset.task} examples, made and not read: nothing to check"]
    reasons = Counter(problem.reason for problem in problems)
    lines += [f"  {count:8,} {reason}" for reason, count in reasons.most_common()]
    lines += [f"  {problem}" for problem in problems[:NAMED]]
    if len(problems) > NAMED:
        lines.append(f"  … and {len(problems) - NAMED:,} more: --list FILE writes them all")
    return "\n".join(lines)


class Rows(Dataset):
    """Row -> what is wrong with it, if anything."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> list[Problem]:
        self.source.at(row)
        found = self.source.problems[:]
        self.source.problems.clear()  # a loader's worker has a list of its own
        return found


def _walk(source: Source, name: str, workers: int) -> None:
    """Collect the problems of all rows in `source.problems`."""
    problems = source.problems[:]
    source.problems.clear()
    with _bar(name) as progress:
        for number, batch in enumerate(DataLoader(Rows(source), BATCH, num_workers=workers, collate_fn=list)):
            problems += itertools.chain(*batch)
            progress(number * BATCH + len(batch), len(source))
    source.problems[:] = problems


# -- shard --------------------------------------------------------------------------------------------------------


def shard(args: list[str]) -> None:
    parser = Parser("data shard", f"Write a data set as WebDataset shards. {RUN}; or --dataset CLASS or FILE.")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the shards go")
    parser.add_argument("--stream", metavar="NAME", help="which data set of the run: streams.caption, …")
    parser.add_argument("--per-shard", type=count, default=1000, help="rows of a shard")
    parser.add_argument("--jpeg", type=int, metavar="QUALITY", help="JPEG of this quality instead of PNG")
    options, rest = parser.parse_known_args(args)
    found = _datasets(rest)
    name = options.stream or next(iter(found))
    if name not in found or (options.stream is None and len(found) > 1):
        raise ValueError(f"--stream must name one of {', '.join(found)}")
    dataset = instantiate(ExampleDataset, "dataset", found[name])
    with _bar(name) as progress:
        made = write_shards(dataset, options.out, options.per_shard, options.jpeg, progress)
    print(f"{made} shards of {dataset.task} rows are there: {options.out}/{{00000..{made - 1:05d}}}.tar")


# -- cache --------------------------------------------------------------------------------------------------------


def cache(args: list[str]) -> None:
    """Make every cache of moments that a run names."""
    parser = Parser("data cache", f"Store the moments that the run's datamodules.CachedMoments need. {RUN}.")
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32", help="of the stored numbers")
    parser.add_argument("--batch-size", type=count, default=32, help="pictures encoded at once")
    parser.add_argument("--device", help="default: the GPU where there is one")
    parser.add_argument("--workers", type=int, default=0, help="processes that read pictures")
    options, rest = parser.parse_known_args(args)
    config = settings(rest)
    wanted = {n: c["init_args"] for n, c in _streams(config).items() if c["class_path"] in CACHED}
    if not wanted:
        raise ValueError("no stream of this run has the class datamodules.CachedMoments: nothing to store")
    tokenizer = to_device(image_tokenizer(config["model"]).eval(), options.device)
    for name, arguments in wanted.items():
        dataset = instantiate(ExampleDataset, "dataset", arguments["dataset"])
        with _bar(name) as progress:
            how = options.precision, options.batch_size, options.workers
            write_moments(dataset, tokenizer, arguments["cache"], *how, progress)
        print(f"{name}: the moments of {len(dataset):,} pictures are in {arguments['cache']}")


# -- what the arguments name --------------------------------------------------------------------------------------


def _datasets(args: list[str], scored: bool = False) -> dict[str, Config]:
    """Data sets by name: that of --dataset, or all of a run; those with stored moments as they are without.

    `scored`: also those that only callbacks use.
    """
    if any(argument.split("=")[0] == "--dataset" for argument in args):
        found = {"dataset": parse(ExampleDataset, "dataset", prepare(args))}
    else:
        config = settings(args)
        found = _streams(config)
        if scored:
            own = _of_callbacks(callbacks_of(config["trainer"]))
            found |= {name: data for name, data in own.items() if data not in found.values()}
    return {n: c["init_args"]["dataset"] if c["class_path"] in CACHED else c for n, c in found.items()}


def _streams(config: Config) -> dict[str, Config]:
    """The data sets of a run: streams.NAME and validation.NAME."""
    arguments = mixture(config["data"])
    found = {f"streams.{name}": stream["dataset"] for name, stream in arguments["streams"].items()}
    return found | {f"validation.{name}": data for name, data in (arguments.get("validation") or {}).items()}


def _of_callbacks(callbacks: list[Config]) -> dict[str, Config]:
    """The data sets that callbacks draw, describe or score: callbacks.NAME.ARGUMENT."""
    found = {}
    for callback in callbacks:
        for argument, value in callback.get("init_args", {}).items():
            for number, one in enumerate(value if isinstance(value, list) else [value]):
                kind = pydoc.locate(one["class_path"]) if isinstance(one, dict) and "class_path" in one else None
                if isinstance(kind, type) and issubclass(kind, ExampleDataset):
                    place = f"{argument}.{number}" if isinstance(value, list) else argument
                    found[f"{callback['class_path']}.{place}"] = one
    return found


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    with tqdm(desc=name, unit=" rows") as bar:

        def progress(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield progress
