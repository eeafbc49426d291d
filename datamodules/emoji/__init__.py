"""Emoji: real pictures, each concept drawn by several foundries in their own style, with agreed names.

`fetch` gets the icon sets with npm, `build` makes a folder of them in the kit's own schema (`formats.folder`).
"""

from datamodules.emoji.build import build
from datamodules.emoji.sources import EXTRA, STYLES, fetch

__all__ = ["EXTRA", "STYLES", "build", "fetch"]
