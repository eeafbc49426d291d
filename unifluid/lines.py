"""Text files by line: UTF-8, with or without a byte order mark, and only a line feed ends a line.

`str.splitlines` would also end one at U+2028 and others, which stand unescaped in valid JSON.
"""

from __future__ import annotations

import codecs
from pathlib import Path


def decode(data: bytes) -> str:
    """Bytes of UTF-8 as text, without a byte order mark. Raises UnicodeDecodeError."""
    return data.removeprefix(codecs.BOM_UTF8).decode()


def read_lines(path: str | Path) -> list[str]:
    """The lines of a file, without what ends them; line n is at n - 1. Raises ValueError naming file and line."""
    lines = []
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        try:
            lines.append(decode(line).removesuffix("\r"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{number} is not UTF-8 text ({error.reason})") from error
    return lines
