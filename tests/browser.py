"""A headless Chromium for pages that the kit writes or serves; a test that asks for one is skipped where there is none.

It needs the package `playwright` and a browser: Debian's `chromium`, or what `playwright install chromium` fetches.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserType, Page


@dataclass
class Browser:
    """A page, what its console called errors, which requests failed, and the addresses of all it asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    requested: list[str] = field(default_factory=list)

    def broken_pictures(self) -> list[str]:
        """The <img> that did not load, by the start of their address."""
        script = "all => all.filter(i => !i.complete || !i.naturalWidth).map(i => i.currentSrc.slice(0, 80))"
        return self.page.locator("img").evaluate_all(script)


@contextmanager
def chromium(width: int = 1200, height: int = 900, scheme: Literal["light", "dark"] = "light") -> Iterator[Browser]:
    """An empty page of that size and colour scheme. Skips the test where playwright or the browser is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=executable(p.chromium), args=["--no-sandbox"])  # root has none
        try:
            yield watched(browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme))
        finally:
            browser.close()


def watched(page: Page) -> Browser:
    """An empty page, from now on with what it does."""
    seen = Browser(page)
    page.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("requestfailed", lambda request: seen.failed.append(f"{request.url}: {request.failure}"))
    page.on("request", lambda request: seen.requested.append(request.url))
    return seen


def executable(kind: BrowserType) -> str:
    """Playwright's own browser, else the system's."""
    own = shutil.which(kind.executable_path)
    path = own or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium: `apt-get install chromium` or `playwright install chromium`")
    return path
