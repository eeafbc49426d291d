"""report: one HTML page about one or more runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from unifluid.cli.errors import Parser

EXAMPLES = """
  unifluid report runs/demo --out runs/demo/report.html
  unifluid report runs/small/seed0 runs/small/seed1 runs/large/seed0 --label small --label small --label large \\
      --title "Small and large" --out report.html
"""


def run(command: str, args: list[str]) -> None:
    options = make_parser(command).parse_args(args)

    from unifluid.report import write_page

    write_page([Path(folder) for folder in options.runs], Path(options.out), options.title, labels=options.label)
    print(options.out)


def make_parser(command: str) -> Parser:
    about = "One HTML page about runs: settings and what differs, curves, scores with intervals, pictures, throughput."
    parser = Parser(command, about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"examples:{EXAMPLES}"
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--out", required=True, metavar="FILE", help="the page; it needs no other file")
    parser.add_argument("--title", default="Runs", help="its heading (Runs)")
    parser.add_argument(
        "--label",
        action="append",
        metavar="NAME",
        help="for each run in order; runs of one label share a colour (the ends of their paths)",
    )
    return parser
