"""What the page says in tables: runs, settings that differ, scores with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from unifluid.evaluation.scores import Score
from unifluid.report.runs import Run

NONE = "–"
RATES = {  # of callbacks.Throughput: what they are called, and how they are shown
    "step_seconds": ("seconds a step", "{:.3g}"),
    "tokens": ("tokens a second", "{:,.0f}"),
    "images": ("images a second", "{:,.1f}"),
    "data_wait": ("waiting for data", "{:.1%}"),
    "padding": ("padding", "{:.1%}"),
    "memory_gib": ("memory, GiB", "{:.2f}"),
}


class Cell(NamedTuple):
    text: str
    note: str = ""


class Table(NamedTuple):
    """Rows of cells; the first row and the first column are headers."""

    title: str
    rows: list[list[Cell]]


def upright(table: Table) -> Table:
    """Turned, where that makes it narrower than long."""
    if len(table.rows[0]) <= len(table.rows):
        return table
    return table._replace(rows=[list(column) for column in zip(*table.rows, strict=True)])


def per_run(title: str, runs: Sequence[Run], columns: Mapping[str, Callable[[Run], Cell | str | None]]) -> Table:
    """What `columns` say of each run, without the columns that say nothing of any."""
    cells = {name: [value(run) for run in runs] for name, value in columns.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    heads = [[Cell("run"), *map(Cell, cells)]]
    rows = [[Cell(run.title), *(as_cell(column[i]) for column in cells.values())] for i, run in enumerate(runs)]
    return upright(Table(title, heads + rows))


def as_cell(value: Cell | str | None) -> Cell:
    return value if isinstance(value, Cell) else Cell(value or NONE)


def overview(runs: Sequence[Run]) -> Table:
    def rate(name: str, form: str) -> Callable[[Run], str | None]:
        return lambda run: form.format(run.throughput[name]) if name in run.throughput else None

    return per_run(
        "Runs",
        runs,
        {
            "last step": lambda run: None if run.last_step is None else f"{run.last_step:,}",
            "training": lambda run: None if run.seconds is None else duration(run.seconds),
            **{name: rate(key, form) for key, (name, form) in RATES.items()},
            "evaluated": lambda run: run.last.get("time", "").replace("T", " ")[:16],
            "version": lambda run: run.last.get("commit") or run.last.get("version"),
            "folder": lambda run: str(run.folder),
        },
    )


def duration(seconds: float) -> str:
    """In the two largest units."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02} min" if hours else f"{m} min {s:02} s" if m else f"{s} s"


def settings(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Keys of (those that differ between the runs, those that do not). Where a run lies is no setting."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key != "trainer.default_root_dir")
    common = [key for key in keys if len({run.settings.get(key) for run in runs}) == 1]
    return [key for key in keys if key not in set(common)], common


def differences(runs: Sequence[Run], keys: Sequence[str]) -> Table:
    return per_run("What differs", runs, {key: (lambda run, key=key: run.settings.get(key)) for key in keys})


def score_tables(runs: Sequence[Run]) -> list[Table]:
    """A table for each prefix: value, 95 % interval and number of items."""
    prefixes = dict.fromkeys(prefix for run in runs for prefix in run.scores)
    return [score_table(prefix, [run for run in runs if prefix in run.scores]) for prefix in prefixes]


def score_table(prefix: str, runs: Sequence[Run]) -> Table:
    names = dict.fromkeys(name for run in runs for name in run.scores[prefix])
    columns = {name: (lambda run, name=name: score_cell(run.scores[prefix].get(name))) for name in names}
    about = {name: (lambda run, name=name: run.about[prefix].get(name)) for name in ("weights", "step")}
    return per_run(prefix, runs, columns | about)


def score_cell(score: Score | None) -> Cell | None:
    if score is None:
        return None
    interval = "" if score.low is None else f"{score.low:.3f} – {score.high:.3f}, "
    return Cell(f"{score.value:.3f}", f"{interval}n {score.n:,}")
