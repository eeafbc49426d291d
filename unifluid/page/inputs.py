"""What visitors enter, checked: mistakes become one line on the page, bugs a traceback in the terminal as well."""

from __future__ import annotations

import html
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from datamodules.images import decode_image
from unifluid.cli.errors import one_line

LONGEST = 500  # characters of a text: a visitor's, where files and flags may hold more
LARGEST_SEED = 2**53 - 1  # browsers count no further


def read_upload(payload: Any) -> Tensor | None:
    """What stands in for the preprocessing of gr.Image: only our own reader opens what visitors send, with its list of
    formats and its limits -> uint8 (3, H, W); None: there is no picture."""
    if payload is None:
        return None
    with told():
        if payload.path is None:
            raise ValueError("the picture is no uploaded file")
        return decode_image(Path(payload.path).read_bytes(), Path(payload.orig_name or payload.path).name)


@contextmanager
def told() -> Iterator[None]:
    """What goes wrong inside is said on the page, in one line."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        line = one_line(error)
        if line is None:
            traceback.print_exception(error)
            line = "something went wrong; the terminal says what"
        # Messages are shown as HTML, and may quote what was entered.
        raise gr.Error(html.escape(line, quote=False), print_exception=False) from error


def text(entered: str | None, what: str) -> str:
    entered = (entered or "").strip()
    if not entered:
        raise ValueError(f"the {what} is empty: write one, or click an example")
    if len(entered) > LONGEST:
        raise ValueError(f"the {what} has {len(entered)} characters, the limit is {LONGEST}")
    return entered


def picture(entered: Tensor | None) -> Tensor:
    if entered is None:
        raise ValueError("there is no picture: drop one in, or draw one and send it here")
    return entered


def seed(entered: float | None) -> int:
    if entered is None or entered != int(entered) or not 0 <= entered <= LARGEST_SEED:
        raise ValueError("the seed must be a whole number that is not negative")
    return int(entered)
