"""Pages link to files of the repository as on disk (`../experiments/NOTES.md`); the site takes those files in.

Markdown becomes a page, anything else is copied. Both keep their place: experiments/NOTES.md is experiments/NOTES.html.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")  # the path in [text](path#anchor)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All that pages link to, directly or not, beside what is in docs/."""
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for path in _linked(page):
            uri = _uri(path)
            if path.is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(path)))
                waiting += [path] if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as between files on disk -> as between files of the site. What is no file is left as text."""
    here, folder = Path(page.file.abs_src_path).parent, posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        return posixpath.relpath(_uri((here / match[1]).resolve()), folder or ".")

    return LINK.sub(moved, markdown)


def _linked(page: Path) -> Iterator[Path]:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        yield (page.parent / target).resolve()


def _uri(path: Path) -> str:
    """Where a file of the repository is in the site: docs/ is its top."""
    uri = path.relative_to(ROOT).as_posix()
    return uri.removeprefix("docs/")
