"""A sheet of pictures with words below them: sections of cells, drawn with PIL's own font."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import lightning as L
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datamodules.images import to_image

WIDTH = 1200  # pixels of the sheet
SIDE = 128  # smaller pictures are enlarged by the whole number that comes closest, without passing it
LARGEST = 256  # larger pictures are reduced
GAP, MARGIN, LINE = 14, 24, 17
LONGEST = 300  # characters
PAPER, BORDER = "white", "#d8d8d8"
INK, FAINT, ACCENT = "#1c1c1c", "#8a8a8a", "#b3261e"


class Line(NamedTuple):
    """A paragraph below a picture; it is wrapped to the cell's width."""

    text: str
    colour: str = INK


@dataclass
class Cell:
    """Pictures (3, H, W) uint8 side by side, what was given first and the result last; words below."""

    pictures: list[Tensor]
    lines: list[Line]


@dataclass
class Section:
    title: str
    cells: list[Cell]


def publish_sheet(trainer: L.Trainer, name: str, sections: list[Section], path: Path, step: int) -> None:
    """The sheet into the file `path`, to loggers of pictures (W&B's), and to TensorBoard with the words as a table. On
    one rank."""
    sheet = draw_sheet(sections)
    save(sheet, path)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, np.asarray(sheet), step, dataformats="HWC")
            logger.experiment.add_text(name, as_markdown(sections), step)
        elif hasattr(logger, "log_image"):
            logger.log_image(name, [sheet], step)


def draw_sheet(sections: list[Section], width: int = WIDTH) -> Image.Image:
    """The sections one below the other, each filling rows from left to right."""
    drawn = [_draw_section(section, width - 2 * MARGIN) for section in sections]
    height = MARGIN + sum(image.height + MARGIN for image in drawn)
    sheet, y = Image.new("RGB", (width, height), PAPER), MARGIN
    for image in drawn:
        sheet.paste(image, (MARGIN, y))
        y += image.height + MARGIN
    return sheet


def _draw_section(section: Section, width: int) -> Image.Image:
    cells = [_draw_cell(cell) for cell in section.cells]
    places, x, y, row_height = [], 0, 2 * LINE, 0
    for cell in cells:
        if x and x + cell.width > width:
            x, y, row_height = 0, y + row_height + GAP, 0
        places.append((x, y))
        x, row_height = x + cell.width + GAP, max(row_height, cell.height)
    image = Image.new("RGB", (width, y + row_height), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), section.title, fill=INK, font=_font(17))
    for cell, place in zip(cells, places, strict=True):
        image.paste(cell, place)
    return image


def _draw_cell(cell: Cell) -> Image.Image:
    pictures = [_enlarge(picture) for picture in cell.pictures]
    width = max(SIDE, sum(p.width + 2 for p in pictures) + 2 * GAP * (len(pictures) - 1))  # words need room
    top, font = max(p.height for p in pictures) + 8, _font(13)
    lines = [(text, line.colour) for line in cell.lines for text in _wrap(line.text, width, font)]
    image = Image.new("RGB", (width, top + LINE * len(lines)), PAPER)
    draw, x = ImageDraw.Draw(image), 0
    for picture in pictures:
        if x:
            _arrow(draw, x - 2 * GAP, picture.height // 2)
        draw.rectangle((x, 0, x + picture.width + 1, picture.height + 1), outline=BORDER)
        image.paste(picture, (x + 1, 1))
        x += picture.width + 2 + 2 * GAP
    for i, (text, colour) in enumerate(lines):
        draw.text((0, top + LINE * i), text, fill=colour, font=font)
    return image


def _arrow(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    """An arrow in the gap between two pictures, which is 2·GAP wide."""
    left, right = x + 6, x + 2 * GAP - 6
    draw.line((left, y, right, y), fill=FAINT, width=2)
    draw.polygon([(right, y), (right - 6, y - 4), (right - 6, y + 4)], fill=FAINT)


def _enlarge(picture: Tensor) -> Image.Image:
    image = to_image(picture)
    longest = max(image.size)
    if longest > LARGEST:
        return image.resize([max(1, side * LARGEST // longest) for side in image.size], Image.Resampling.LANCZOS)
    factor = max(1, SIDE // longest)
    return image.resize([side * factor for side in image.size], Image.Resampling.NEAREST)


@cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _wrap(text: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Lines no wider than `width`; a word that is wider is cut, and so is text beyond `LONGEST` characters."""
    lines, line = [], ""
    for word in (text if len(text) <= LONGEST else text[:LONGEST] + "…").split():
        while font.getlength(word) > width:
            fits = next(n for n in range(1, len(word)) if font.getlength(word[: n + 1]) > width)
            lines += [line] * bool(line) + [word[:fits]]
            line, word = "", word[fits:]
        longer = f"{line} {word}".strip()
        if font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


def save(image: Image.Image, path: Path) -> None:
    """As PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    image.save(partial, format="PNG")
    os.replace(partial, path)


def as_markdown(sections: list[Section]) -> str:
    """The words of all cells, for TensorBoard."""
    parts = []
    for section in sections:
        rows = ["<br>".join(line.text.replace("|", "\\|") for line in cell.lines) for cell in section.cells]
        parts.append(
            "\n".join([f"| | {section.title} |", "|---|---|", *(f"| {i} | {row} |" for i, row in enumerate(rows))])
        )
    return "\n\n".join(parts)
