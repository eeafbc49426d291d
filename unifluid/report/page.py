"""From runs to the page: which sections, charts and pictures there are; `page.html` is the rest."""

from __future__ import annotations

import base64
import errno
import io
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from unifluid import __version__
from unifluid.report.charts import Look, chart, embedded, looks
from unifluid.report.runs import Curve, Run, read_runs
from unifluid.report.tables import Cell, Table, differences, overview, score_tables, settings

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

TITLE = "Runs"
PIXELS = 24_000_000  # of all pictures of a page, about 4 MB
QUALITY = 82  # of WebP


@dataclass(frozen=True)
class Section:
    """A part of its own before those of the runs. The table's first row is its header; the figure is SVG, not escaped.

    Figures made within `unifluid.report.charts.style()` and written by `svg` fit light and dark pages.
    """

    title: str
    text: str = ""
    table: Sequence[Sequence[str]] | None = None
    figure: str | None = None


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
        different=different and differences(runs, different),
        keys=len(different),
        common=[(key, runs[0].settings[key]) for key in common],
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
