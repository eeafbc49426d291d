"""From runs to the page: which tables, charts and pictures there are; `page.html` is the rest."""

from __future__ import annotations

import base64
import errno
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from unifluid import __version__
from unifluid.evaluation.scores import Score
from unifluid.report.charts import Look, chart, embedded, looks
from unifluid.report.runs import Curve, Run, read_runs

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TITLE = "Runs"
PIXELS = 24_000_000  # of all pictures of a page, about 4 MB
QUALITY = 82  # of WebP
NONE = "–"
RATES = {  # of callbacks.Throughput: what they are called, and how they are shown
    "step_seconds": ("seconds a step", "{:.3g}"),
    "tokens": ("tokens a second", "{:,.0f}"),
    "images": ("images a second", "{:,.1f}"),
    "data_wait": ("waiting for data", "{:.1%}"),
    "padding": ("padding", "{:.1%}"),
    "memory_gib": ("memory, GiB", "{:.2f}"),
}


@dataclass(frozen=True)
class Section:
    """A part of its own before those of the runs. The table's first row is its header; the figure is SVG, not escaped.

    Figures made within `unifluid.report.charts.style()` and written by `svg` fit light and dark pages.
    """

    title: str
    text: str = ""
    table: Sequence[Sequence[str]] | None = None
    figure: str | None = None


class Cell(NamedTuple):
    text: str
    note: str = ""


class Table(NamedTuple):
    """Rows of cells; the first row and the first column are headers."""

    title: str
    rows: list[list[Cell]]


class Shown(NamedTuple):
    """A figure of the page: SVG, or the address of a picture."""

    title: str
    content: str
    words: str = ""


def write_page(
    runs: Sequence[Path],
    out: Path,
    title: str = TITLE,
    sections: Sequence[Section] = (),
    labels: Sequence[str] | None = None,
) -> None:
    """Write one HTML file that needs no other: `sections`, then settings, scores, curves and pictures of `runs`.

    Runs of one label share a colour; by default each has the end of its path. Raises ValueError or OSError in one
    line: a folder that is no run, a damaged file, an `out` that cannot be written.
    """
    with written(out) as file:
        file.write(render(read_runs(runs, labels), title, sections))


def render(runs: Sequence[Run], title: str, sections: Sequence[Section]) -> str:
    environment = templates()
    colours = looks([run.label for run in runs])
    history = charts([(run.label, run.history) for run in runs], colours, falling=False)
    losses = charts([(run.label, run.losses) for run in runs], colours, falling=True)
    own = [section.figure for section in sections if section.figure is not None]
    figures = iter(embedded([*own, *(shown.content for shown in (*history, *losses))]))
    different, common = settings(runs)
    return environment.get_template("page.html").render(
        title=title,
        sections=[section_of(section, figures) for section in sections],
        history=[shown._replace(content=next(figures)) for shown in history],
        losses=[shown._replace(content=next(figures)) for shown in losses],
        colours=colours,
        runs=overview(runs),
        different=different,
        common=common,
        scores=score_tables(runs),
        unscored=[run.title for run in runs if not run.scores],
        pictures=pictures(runs),
        several=len(runs) > 1,
        grouped=len(colours) < len(runs),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
    )


def templates() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from matplotlib import figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"a page needs the package {error.name}: pip install 'unifluid[report]'") from error
    loader = PackageLoader("unifluid.report", ".")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = breakable
    return environment


def breakable(text: str) -> Markup:
    """Keys and paths may be broken after the dots and slashes before their parts; numbers stay whole."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([./])(?=[A-Za-z_])", r"\1<wbr>", str(escape(text))))


def section_of(section: Section, figures: Iterator[str]) -> dict[str, object]:
    table = section.table and Table(section.title, [[Cell(text) for text in row] for row in section.table])
    figure = next(figures) if section.figure is not None else None
    return {"title": section.title, "text": section.text, "table": table, "figure": figure}


# -- tables -----------------------------------------------------------------------------------------------------


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
    """
    >>> duration(59.6), duration(61), duration(7260)
    ('1 min 00 s', '1 min 01 s', '2 h 01 min')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02} min" if hours else f"{m} min {s:02} s" if m else f"{s} s"


def settings(runs: Sequence[Run]) -> tuple[Table | None, list[tuple[str, str]]]:
    """(those that differ between the runs, those that do not). Where a run lies is no setting."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key != "trainer.default_root_dir")
    common = [key for key in keys if len({run.settings.get(key) for run in runs}) == 1]
    different = {key: (lambda run, key=key: run.settings.get(key)) for key in keys if key not in set(common)}
    table = per_run("What differs", runs, different) if different else None
    return table, [(key, runs[0].settings[key]) for key in common]


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


# -- figures ----------------------------------------------------------------------------------------------------


def charts(found: Sequence[tuple[str, Mapping[str, Curve]]], colours: Mapping[str, Look], falling: bool) -> list[Shown]:
    """(label, curves by name) of each run -> a chart for each name, where some run has more than one value of it."""
    names = dict.fromkeys(name for _, own in found for name in own)
    shown = []
    for name in names:
        curves = [(label, own[name]) for label, own in found if name in own]
        if any(len(curve.steps) > 1 for _, curve in curves):
            shown.append(Shown(name, chart(curves, colours, falling)))
    return shown


def pictures(runs: Sequence[Run]) -> list[tuple[str, list[Shown]]]:
    """(name, the pictures of that name side by side), of the first run of each label that has one."""
    chosen: dict[str, dict[str, tuple[Run, Path]]] = {}
    for run in runs:
        for name, path in run.pictures.items():
            chosen.setdefault(name, {}).setdefault(run.label, (run, path))
    share = PIXELS // max(1, sum(len(by_label) for by_label in chosen.values()))
    return [
        (name, [Shown(run.title, inlined(path, share), f"{name} of {run.title}") for run, path in by_label.values()])
        for name, by_label in chosen.items()
    ]


def inlined(path: Path, pixels: int) -> str:
    """A picture of at most so many pixels as a data: address."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: no picture that can be read: remove it, or evaluate again") from error
    scale = math.sqrt(pixels / (image.width * image.height))
    if scale < 1:
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))), Image.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


# -- the file ---------------------------------------------------------------------------------------------------


@contextmanager
def written(out: Path) -> Iterator[IO[str]]:
    """A file that becomes `out` when all is well. It is opened first: an unwritable place should not cost the work."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder: name a file in it", str(out))
        out.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(out)) from error
    try:
        with file:
            yield file
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
