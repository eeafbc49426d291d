"""data: make data sets, check them, and store them in forms that are faster to read."""

from __future__ import annotations

import argparse
from pathlib import Path

from unifluid.cli.errors import Parser
from unifluid.nearest import did_you_mean

KINDS = {
    "emoji": "make a data set of pictures, names, questions and edits from four emoji icon sets",
    "convert": "rows of a downstream task (OKVQA, TextCaps, …) from its official files",
    "check": "read a data set, or all of a run, and report what will be skipped and why",
    "shard": "write a data set as WebDataset shards",
    "cache": "store the image tokenizer's moments that a run names",
}


def run(command: str, args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print("usage: unifluid data COMMAND [options]\n\ncommands:")
        print("\n".join(f"  {kind:10} {text}" for kind, text in KINDS.items()))
        return
    kind, *rest = args
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS)
        raise ValueError(f"no command data {kind!r}, there are: {', '.join(KINDS)}{near}")
    if kind == "emoji":
        emoji(_emoji_options(rest))
    elif kind == "convert":
        from unifluid.cli import convert

        convert.run(rest)
    else:
        from unifluid.cli import data_tools

        {"check": data_tools.check, "shard": data_tools.shard, "cache": data_tools.cache}[kind](rest)


def _emoji_options(args: list[str]) -> argparse.Namespace:
    parser = Parser("data emoji", "Make a data set of emoji: who drew them, and under which licence, is printed.")
    parser.add_argument("--out", required=True, metavar="DIR", help="where the data set goes")
    parser.add_argument(
        "--sources",
        metavar="DIR",
        help="folder with the icon-set tarballs (default: fetched with npm into OUT/sources)",
    )
    parser.add_argument("--size", type=int, default=32, help="pixels of a picture's side (%(default)s)")
    parser.add_argument("--styles", nargs="+", metavar="STYLE", help="icon sets to use (default: all four)")
    parser.add_argument(
        "--extra", nargs="*", metavar="STYLE", help="older icon sets, for training alone (default: all three)"
    )
    return parser.parse_args(args)


def emoji(options: argparse.Namespace) -> None:
    from datamodules.emoji import EXTRA, STYLES, build, fetch

    styles, sources = options.styles or STYLES, options.sources
    extra = EXTRA if options.extra is None else options.extra
    if sources is None:
        sources = Path(options.out) / "sources"
        if not any(sources.glob("*.tgz")):
            fetch(sources, styles, extra)
    made = build(sources, options.out, options.size, styles, extra)
    print(f"{', '.join(f'{n} {what}' for what, n in made.items())} are in {options.out}")
