"""serve: a page in the browser where a checkpoint draws, describes, answers and edits."""

from __future__ import annotations

import importlib.util
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unifluid.cli.errors import Parser, count
from unifluid.cli.sample import add_model_options, load_pipeline

if TYPE_CHECKING:
    from unifluid.pipeline import Pipeline

# For a model that does not say what it is drawn with: as the default run.
DEFAULTS = {"steps": 50, "guidance": 3.0, "schedule": "linear", "temperature": 0.8}


def run(command: str, args: list[str]) -> None:
    options = make_parser(command).parse_args(args)
    if importlib.util.find_spec("gradio") is None:
        raise ModuleNotFoundError("the page needs gradio: pip install 'unifluid[serve]'")
    from unifluid.page.server import check_port, serving

    check_port(options.port)  # a taken port should not cost the loading
    pipeline = load_pipeline(options)
    about = describe(pipeline, options.ckpt)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what visitors uploaded is removed in any case
    limits = options.port, options.queue, options.max_upload
    sampling = pipeline.sampling if pipeline.module.sampling else replace(pipeline.sampling, **DEFAULTS)
    with serving(pipeline, about, sampling, *limits, browser=options.open) as address:
        print(f"{address} serves {about}; Ctrl-C ends it", flush=True)
        threading.Event().wait()


def make_parser(command: str) -> Parser:
    parser = Parser(command, "A page in the browser, for this machine alone: draw, describe, ask, edit.")
    add_model_options(parser)
    page = parser.add_argument_group("the page")
    page.add_argument("--port", type=int, default=7860, help="of 127.0.0.1")
    page.add_argument("--open", action="store_true", help="open the page in the browser")
    page.add_argument("--queue", type=count, default=16, metavar="N", help="requests that may wait for their turn")
    page.add_argument("--max-upload", type=count, default=10, metavar="MB", help="largest picture that is taken")
    return parser


def describe(pipeline: Pipeline, path: str) -> str:
    """A line on the model: file, weights, size, pictures, device."""
    model, place = pipeline.module.model, Path(path)
    parameters = sum(p.numel() for p in model.parameters())
    size, name = model.image_tokenizer.image_size, "/".join(place.absolute().parts[-2:])
    weights, device = f"{pipeline.weights} weights".replace("ema", "EMA"), pipeline.module.device
    return f"{name}, {weights}, {parameters / 1e6:.1f} M parameters, pictures of {size} × {size}, on {device}"
