"""data check, shard, cache: what is in a data set, and the same in forms that are faster to read."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.base import ExampleDataset, Source
from datamodules.moments import CachedMoments, write_moments
from datamodules.sharding import write_shards
from unifluid.cli.errors import Parser, condense, count
from unifluid.cli.parts import image_tokenizer, instantiate, mixture, parse
from unifluid.cli.trainer import prepare, settings
from unifluid.configs import Config
from unifluid.pipeline import to_device

LIFTED = {"max_skipped": 1.0, "strict": False}  # so that a check sees it all
BATCH = 64  # rows a loader worker walks at once
RUN = "any option of `unifluid fit` may follow: --config RUN.yaml, …"
CACHED = f"{CachedMoments.__module__}.{CachedMoments.__qualname__}", "datamodules.CachedMoments"


# -- check --------------------------------------------------------------------------------------------------------


def check(args: list[str]) -> None:
    """Read all rows, report what is left out and why. Raises ValueError where a data set is above its limit."""
    parser = Parser("data check", f"Report what training will skip, and why. {RUN}; or --dataset CLASS or FILE.")
    parser.add_argument("--workers", type=int, default=0, help="processes that read")
    options, rest = parser.parse_known_args(args)
    above = []
    for name, config in _datasets(rest).items():
        lifted, limit = _lift(config)
        try:
            with _quiet():
                dataset = instantiate(ExampleDataset, "dataset", lifted)
                for source in dataset.sources:
                    _walk(source, name, options.workers)
        except ValueError as error:
            above.append(f"{name} ({condense(str(error))})")
            continue
        for source in dataset.sources:
            print(report(name, source))
            if source.skipped.total() > limit * source.total:
                above.append(f"{name} ({source.skipped.total() / source.total:.2%} bad, {limit:.2%} allowed)")
        if not dataset.sources:
            print(f"{name}: {len(dataset):,} {dataset.task} examples, made and not read: nothing to check")
    if above:
        raise ValueError(f"not fit to train on: {'; '.join(above)}")


def report(name: str, source: Source) -> str:
    """Counts by reason, and the first bad rows by name."""
    lines = [f"{name}: {source.total - source.skipped.total():,} of {source.total:,} {source.task} rows are good"]
    lines += [f"  {count:8,} {reason}" for reason, count in source.skipped.most_common()]
    return "\n".join([*lines, *(f"  {line}" for line in source.named())])


class Rows(Dataset):
    """Touches every row of a source; what is bad is marked there."""

    def __init__(self, source: Source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> int:
        self.source.at(row)
        return row


def _walk(source: Source, name: str, workers: int) -> None:
    with _bar(name) as progress:
        for batch in DataLoader(Rows(source), BATCH, num_workers=workers, collate_fn=list):
            progress(batch[-1] + 1, len(source))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The report names what the log would."""
    logger = logging.getLogger("datamodules.formats.skipping")
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _lift(config: Config) -> tuple[Config, float]:
    """A data set without its limit, and the limit."""
    arguments = dict(config.get("init_args", {}))
    if "dataset" in arguments:
        arguments["dataset"], limit = _lift(arguments["dataset"])
    else:
        limit = 0.0 if arguments.get("strict") else arguments.get("max_skipped", 0.0)
        arguments |= {name: value for name, value in LIFTED.items() if name in arguments}
    return {**config, "init_args": arguments}, limit


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


def _datasets(args: list[str]) -> dict[str, Config]:
    """Data sets by name: that of --dataset, or all of a run; those with stored moments as they are without."""
    if any(argument.split("=")[0] == "--dataset" for argument in args):
        found = {"dataset": parse(ExampleDataset, "dataset", prepare(args))}
    else:
        found = _streams(settings(args))
    return {n: c["init_args"]["dataset"] if c["class_path"] in CACHED else c for n, c in found.items()}


def _streams(config: Config) -> dict[str, Config]:
    """The data sets of a run: streams.NAME and validation.NAME."""
    arguments = mixture(config["data"])
    found = {f"streams.{name}": stream["dataset"] for name, stream in arguments["streams"].items()}
    return found | {f"validation.{name}": data for name, data in (arguments.get("validation") or {}).items()}


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    with tqdm(desc=name, unit=" rows") as bar:

        def progress(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield progress
