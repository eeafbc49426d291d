"""data convert: the official files of a downstream task, as rows of the kit's own schema."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from unifluid.cli.errors import Parser, count
from unifluid.nearest import did_you_mean

if TYPE_CHECKING:
    from datamodules.tasks import Converted


def run(args: list[str]) -> None:
    from datamodules.tasks import TASKS, convert
    from datamodules.tasks.base import MissingFile

    parser = _parser({name: ", ".join(task.splits) for name, task in TASKS.items()})
    options = parser.parse_args(args)
    if options.task not in TASKS:
        near = did_you_mean(options.task, TASKS) or f": there are {', '.join(TASKS)}"
        raise ValueError(f"no task {options.task!r}{near}")
    task = TASKS[options.task](options.source, options.size)
    unknown = set(options.split or ()) - task.splits.keys()
    if unknown:
        raise ValueError(f"{task.name} has no split {min(unknown)}, it has {', '.join(task.splits)}")
    made, absent = 0, None
    for split in options.split or task.splits:
        try:
            done = convert(task, split, options.out, options.copy, options.allow_missing, _bar)
        except MissingFile as error:
            if options.split:
                raise
            absent = error
            print(f"{split}: left out, {error}")
            continue
        made += 1
        _report(split, f"{options.out}/{split}.jsonl", done)
    if not made and absent is not None:
        raise absent


def _parser(splits: dict[str, str]) -> Parser:
    parser = Parser("data convert", "Write a task's rows to DST/SPLIT.jsonl; splits that are finished are left alone.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("task", metavar="TASK", help="see below")
    parser.add_argument("source", metavar="SRC", help="official files, as experiments/transfer/README.md lays them out")
    parser.add_argument("out", metavar="DST", help="where rows and pictures go")
    parser.add_argument("--split", action="append", metavar="NAME", help="may be repeated (default: all with files)")
    parser.add_argument("--size", type=count, default=224, help="pixels of a side where boxes are drawn: widgetcap")
    parser.add_argument("--copy", action="store_true", help="copy pictures instead of linking them")
    parser.add_argument("--allow-missing", action="store_true", help="leave rows out whose picture is missing")
    parser.epilog = "tasks and their splits:\n" + "\n".join(f"  {name:14} {text}" for name, text in splits.items())
    return parser


def _report(split: str, file: str, done: Converted | None) -> None:
    if done is None:
        print(f"{split}: {file} is there already")
        return
    print(f"{split}: {done.rows:,} rows in {file}")
    for reason, n in [*done.left_out.most_common(), ("missing picture", len(done.missing))]:
        if n:
            print(f"  {n:8,} left out: {reason}")


def _bar(entries: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(entries, title, total, unit="entry", leave=False)
