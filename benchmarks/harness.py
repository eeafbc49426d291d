"""What all benchmarks share: the command line, cases timed and checked, results on disk.

A benchmark is a function of a `Bench`. It compares `ours` with a `reference` case by case; every row is written as
soon as it is measured, so an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.hardware import commit, hardware
from benchmarks.tables import markdown
from benchmarks.timing import agree, clocked, interleaved, milliseconds

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


class Bench:
    """One benchmark run. `tiny` asks for the smallest sizes, which show only that everything works.

    Rows measured earlier are kept if commit, hardware and sizes are the same, so `--cases` adds to a file; not so
    while code differs from its commit.
    """

    def __init__(self, name: str, title: str, options: argparse.Namespace):
        self.name, self.title, self.tiny = name, title, options.tiny
        self.repeats, self.cases = options.repeats, re.compile(options.cases)
        self.options, self.out = options, Path(options.out)
        self.about = {"commit": commit(), "hardware": hardware(), "tiny": options.tiny}
        self.rows, self.notes = self._earlier()

    @property
    def file(self) -> Path:
        return self.out / f"{self.name}.json"

    def _earlier(self) -> tuple[list[Row], list[str]]:
        if not self.file.exists():
            return [], []
        found = json.loads(self.file.read_text())
        same = {key: found.get(key) for key in self.about} == self.about
        kept = same and not str(found["commit"]).endswith("+")  # "+": code has changed since
        return (found["rows"], found["notes"]) if kept else ([], [])

    def wants(self, case: str) -> bool:
        """Whether `--cases` asks for this case."""
        return self.cases.search(case) is not None

    def compare(
        self,
        case: str,
        ours: Callable[[], Any],
        reference: Callable[[], Any] | None = None,
        tolerance: float | None = None,
        check: Callable[[], Any] | None = None,
        **more: Any,
    ) -> Row:
        """Time both in turn and add a row. With a `tolerance`, raises ValueError where their outputs differ by more;
        infinite, it has the difference reported.

        The first call of each warms up and gives the outputs to compare. `check` gives what `ours` is compared with,
        where the reference computes something else.
        """
        self.say(f"{case} …")
        made, expected = ours(), reference() if reference else None
        if check:
            expected = check()
        error = None if tolerance is None else agree(f"{self.name}, {case}", made, expected, tolerance)
        clocks = {"ours": clocked(ours)} | ({"reference": clocked(reference)} if reference else {})
        return self.add(case, interleaved(clocks, self.repeats), error, **more)

    def add(self, case: str, seconds: dict[str, list[float]], error: float | None = None, **more: Any) -> Row:
        """A row from the seconds of each side: "ours", "reference" or both."""
        row: Row = {"case": case}
        for side in ("ours", "reference"):
            times = seconds.get(side)
            row |= {f"{side}_ms": times and milliseconds(statistics.median(times))}
            row |= {f"{side}_{f.__name__}_ms": times and milliseconds(f(times)) for f in (min, max)}
        both = row["ours_ms"] and row["reference_ms"]
        row["ratio"] = round(row["reference_ms"] / row["ours_ms"], 3) if both else None
        row |= {"max_error": error, "n": max(map(len, seconds.values()))} | more
        return self.put(row)

    def put(self, row: Row) -> Row:
        """Add `row`, in the place of an earlier one of the same case, and write the files."""
        cases = {other["case"]: other for other in self.rows}
        self.rows = list((cases | {row["case"]: row}).values())
        self.write()
        told = {"ours_ms": "{} ms", "reference_ms": "reference {} ms", "ratio": "ratio {}"}
        self.say(f"{row['case']}: " + ", ".join(text.format(row[key]) for key, text in told.items() if row.get(key)))
        return row

    def more(self, row: Row, **values: Any) -> None:
        """Add columns to a row that is there already."""
        self.rows = [other | values if other["case"] == row["case"] else other for other in self.rows]
        self.write()

    def note(self, text: str) -> None:
        """A line beneath the table."""
        self.notes = [*(note for note in self.notes if note != text), text]
        self.say(text)
        self.write()

    def write(self) -> None:
        found = {"name": self.name, "title": self.title, "date": time.strftime("%Y-%m-%d")} | self.about
        found |= {"rows": self.rows, "notes": self.notes}
        self.out.mkdir(parents=True, exist_ok=True)
        for file, text in ((self.file, json.dumps(found, indent=1)), (self.file.with_suffix(".md"), markdown(found))):
            temporary = file.with_suffix(".part")
            temporary.write_text(text + "\n")
            temporary.replace(file)

    def say(self, text: str) -> None:
        print(f"[{self.name}] {text}", file=sys.stderr, flush=True)


def parser(name: str, title: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=title)
    made.add_argument("--cases", default="", metavar="REGEX", help="only the cases whose names match")
    made.add_argument("--repeats", type=int, default=5, metavar="N", help="timed runs of each side (5)")
    made.add_argument("--out", default=str(RESULTS), metavar="FOLDER", help="where results go (benchmarks/results)")
    made.add_argument("--threads", type=int, metavar="N", help="of torch (default: torch's own choice)")
    made.add_argument("--tiny", action="store_true", help="tiny sizes: shows that everything works, measures nothing")
    return made


def main(
    name: str,
    doc: str,
    run: Callable[[Bench], None],
    args: list[str] | None = None,
    flags: Callable[[argparse.ArgumentParser], Any] = lambda _: None,
) -> Bench:
    """The command line of a benchmark; `flags` adds its own."""
    title = doc.strip().splitlines()[0]
    made = parser(name, title)
    flags(made)
    options = made.parse_args(args)
    if options.repeats < 1:
        made.error("--repeats must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(name, title, options)
    try:
        run(bench)
    except ValueError as error:
        if args is not None:
            raise
        sys.exit(f"error: {error}")
    return bench
