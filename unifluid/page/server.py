"""Serves the page to this machine, and to nobody else; what visitors upload is gone when it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from unifluid.decoding import ImageSampling
from unifluid.pipeline import Pipeline

HOST = "127.0.0.1"
# Small pictures are shown with sharp pixels, photographs as ever: which it is, an uploaded file tells by its size.
CRISP = """<script>document.addEventListener("load", ({target: i}) => {
  if (i.tagName === "IMG") i.classList.toggle("crisp", i.naturalWidth < 225);
}, true)</script>"""


@contextmanager
def serving(
    pipeline: Pipeline,
    about: str,
    sampling: ImageSampling,
    port: int,
    waiting: int,
    megabytes: int,
    browser: bool = False,
) -> Iterator[str]:
    """The page is served, in threads, until the end of the block -> its address.

    Args:
        about: a line on the model.
        sampling: where the controls of drawings stand at first.
        waiting: requests at most that wait for their turn; more are refused.
        megabytes: of an uploaded file at most.
        browser: whether to open the page in one.

    Raises OSError where the port is taken, ModuleNotFoundError where gradio is missing.
    """
    check_port(port)
    with TemporaryDirectory(prefix="unifluid-") as cache, environment(cache):
        gradio = import_module("gradio")  # only now, since it reads its environment
        handlers = import_module("unifluid.page.handlers").Handlers(pipeline)
        page = import_module("unifluid.page.tabs").build(handlers, about, sampling)
        page.queue(max_size=waiting, api_open=False)
        theme = gradio.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        )
        try:
            _, address, _ = page.launch(
                server_name=HOST,
                server_port=port,
                max_file_size=f"{megabytes}mb",
                inbrowser=browser,
                theme=theme,
                css_paths=Path(__file__).with_name("page.css"),
                head=CRISP,
                footer_links=[],
                # everything else that gradio offers is off
                **dict.fromkeys(("share", "pwa", "mcp_server", "ssr_mode", "enable_monitoring", "run_history"), False),
                inline=False,
                quiet=True,
                prevent_thread_lock=True,
            )
            yield address.rstrip("/")
        finally:
            handlers.worker.stop_all()
            page.close(verbose=False)


def check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that has just been left is free
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise OSError(f"port {port} of {HOST} cannot be used: {error}; give another with --port") from error


@contextmanager
def environment(cache: str) -> Iterator[None]:
    """gradio's settings: pictures in the folder `cache`, no reports on its use, and nothing that a variable of the
    user's might open to others. A proxy, which gradio would ask for its own page, is not asked."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_TEMP_DIR": cache, "GRADIO_ANALYTICS_ENABLED": "False"}
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
