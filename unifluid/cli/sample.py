"""generate, caption, answer, edit: a checkpoint at work, from the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifluid.cli.errors import Parser, count
from unifluid.cli.items import TEXT, Item, collect

if TYPE_CHECKING:
    from PIL import Image

    from unifluid.pipeline import Pipeline

DRAWING = ("generate", "edit")
DESCRIPTIONS = {
    "generate": "Draw pictures from prompts.",
    "caption": "Describe pictures.",
    "answer": "Answer questions about pictures.",
    "edit": "Change pictures by instructions.",
}
# Left out, these are what ImageSampling and TextSampling say.
STEPS = ("steps", "rounds", "late_steps", "sampler", "time_shift", "start")
GUIDANCE = ("guidance", "schedule", "interval", "source_guidance")
IMAGE_OPTIONS = (*STEPS, *GUIDANCE, "temperature", "order", "batch_size", "candidates", "int8")
TEXT_OPTIONS = ("beams", "temperature", "top_p", "max_tokens", "batch_size")
GRID = 64  # pictures at most in grid.png


def run(command: str, args: list[str]) -> None:
    options = make_parser(command).parse_args(args)
    items = [item for item in collect(command, options) for _ in range(getattr(options, "n", 1))]
    out = Path(options.out) if options.out is not None else None
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # an unwritable folder should not cost the sampling

    pipeline = load_pipeline(options)
    names = IMAGE_OPTIONS if command in DRAWING else TEXT_OPTIONS
    sampling = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    used = asdict(pipeline.checked(command, sampling)) if command in DRAWING else sampling
    about = {"task": command, "ckpt": options.ckpt, "weights": pipeline.weights, "seed": options.seed, **used}
    if command in DRAWING:
        draw(command, pipeline, items, sampling, about, out)
    else:
        write(command, pipeline, items, sampling, about, out)


def make_parser(command: str) -> Parser:
    parser = Parser(command, DESCRIPTIONS[command])
    add_model_options(parser)
    drawing = command in DRAWING
    parser.add_argument(
        "--out", required=drawing, metavar="DIR", help="where results go" + " (else only printed)" * (not drawing)
    )
    ask = parser.add_argument_group("what to do")
    if command in TEXT:
        ask.add_argument(f"--{TEXT[command]}", action="append", default=[], metavar="TEXT", help="may be repeated")
    if command != "generate":
        ask.add_argument("--image", nargs="+", action="extend", default=[], metavar="FILE", help="one or many")
    ask.add_argument(
        "--prompts", metavar="FILE", help="texts one a line; or .jsonl with id, prompt, question, instruction, image"
    )
    about = "Left out, it is as the model was trained to be drawn from (model.sampling), else as in brackets."
    how = parser.add_argument_group("how", about if drawing else None)
    if drawing:
        _add_image_options(how, command)
    else:
        _add_text_options(how)
    how.add_argument("--seed", type=int, default=0, help="of every draw (%(default)s)")
    how.add_argument("--batch-size", type=count, help="at once; changes no result")
    return parser


def add_model_options(parser: Parser) -> None:
    """Which model works and where, for `load_pipeline`."""
    model = parser.add_argument_group("the model")
    model.add_argument("--ckpt", required=True, metavar="PATH", help="a checkpoint, a run's folder or an exported one")
    model.add_argument("--weights", choices=("ema", "raw"), help="default: ema where there is one")
    model.add_argument("--device", help="cpu, cuda, cuda:1, … (default: the GPU where there is one)")
    model.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="(%(default)s)")
    model.add_argument(
        "--allow-module", action="append", default=[], metavar="NAME", help="trust this package's classes"
    )


def load_pipeline(options: argparse.Namespace) -> Pipeline:
    """What `add_model_options` asked for. Errors as of `unifluid.load`."""
    from unifluid.pipeline import load

    return load(options.ckpt, options.weights, options.device, options.precision, options.allow_module)


def _add_image_options(how: argparse._ArgumentGroup, command: str) -> None:
    how.add_argument("--n", type=count, default=1, help="pictures for each item (%(default)s)")
    how.add_argument("--steps", type=int, help="head steps for every image token (100)")
    how.add_argument("--rounds", type=int, help="several tokens at once, if trained so (a token at a time)")
    how.add_argument("--late-steps", type=int, help="of the last token, to which those of the others fall (as --steps)")
    how.add_argument("--sampler", help="of the head: ode, midpoint, heun, sde; ancestral, dpm++ (the model's own)")
    how.add_argument("--time-shift", type=float, help="above 1: more of the steps near noise (the model's own)")
    how.add_argument("--start", type=float, help="of a diffusion head: .99 leaves out the last noise (the model's own)")
    how.add_argument("--guidance", type=float, help="classifier-free guidance scale (1: none)")
    how.add_argument(
        "--guidance-schedule", dest="schedule", help="over the image tokens: constant, linear, cosine, none"
    )
    how.add_argument(
        "--guidance-interval", dest="interval", type=_interval, help="share of the head steps guided, as 0.2,0.9 (all)"
    )
    if command == "generate":
        how.add_argument("--candidates", type=count, help="draw so many and keep the one the model reads back best (1)")
    if command == "edit":
        how.add_argument("--source-guidance", type=float, help="scale for the source picture, apart (as --guidance)")
    how.add_argument("--temperature", type=float, help="of the head's step noise (1)")
    how.add_argument(
        "--int8", action="store_true", default=None, help="large matrices in 8 bits: faster on a CPU, coarser"
    )
    how.add_argument("--order", type=_order, help="random, raster, or a permutation such as 3,1,0,2 (as trained)")


def _add_text_options(how: argparse._ArgumentGroup) -> None:
    how.add_argument("--beams", type=int, help="width of the beam search (1: none)")
    how.add_argument("--temperature", type=float, help="0 takes the likeliest token (0)")
    how.add_argument("--top-p", type=float, help="draw from the likeliest tokens of this probability (1)")
    how.add_argument("--max-tokens", type=int, help="longest text (64)")


def _interval(text: str) -> tuple[float, float]:
    try:
        start, stop = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"two shares such as 0.2,0.9, got {text!r}") from error
    return start, stop


def _order(text: str) -> str | list[int]:
    if "," not in text:
        return text
    try:
        return [int(i) for i in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"random, raster, or numbers such as 3,1,0,2, got {text!r}") from error


def chunks(
    command: str, items: list[Item], sampling: dict[str, Any], seed: int, size: int
) -> Iterator[tuple[list[int], list[Item], dict[str, Any]]]:
    """(indices, items, what the pipeline is told beside them) a batch, of `size` unless given, under a progress bar."""
    from tqdm import tqdm

    size = sampling.get("batch_size", size)
    with tqdm(
        total=len(items), desc=command, unit="item", bar_format="{l_bar}{bar}| {n:.0f}/{total} [{elapsed}<{remaining}]"
    ) as bar:
        for start in range(0, len(items), size):
            part = items[start : start + size]

            def progress(done: float, of: int, start: int = start) -> None:
                bar.update(start + done - bar.n)

            indices = list(range(start, start + len(part)))
            yield indices, part, {"seed": seed, "indices": indices, "progress": progress, **sampling}


def draw(
    command: str, pipeline: Pipeline, items: list[Item], sampling: dict[str, Any], about: dict[str, Any], out: Path
) -> None:
    """NUMBER.png for every item, results.jsonl and grid.png. What is done is on disk when a run is interrupted."""
    pictures: list[Image.Image] = []
    with (out / "results.jsonl").open("w", encoding="utf-8") as results:
        for indices, part, settings in chunks(command, items, sampling, about["seed"], 64):
            texts = [item.text for item in part]
            if command == "generate":
                made = pipeline.generate(texts, **settings)
            else:
                made = pipeline.edit([item.images for item in part], texts, **settings)
            for index, item, picture in zip(indices, part, made, strict=True):
                name = f"{index:05d}.png"  # never from a prompt or an id: they come from anywhere
                picture.save(out / name)
                _record(results, {"id": item.id, "index": index, "file": name, TEXT[command]: item.text}, item, about)
            pictures += made[: GRID - len(pictures)]
    grid(pictures).save(out / "grid.png")
    print(f"{len(items)} pictures, grid.png and results.jsonl are in {out}")


def write(
    command: str,
    pipeline: Pipeline,
    items: list[Item],
    sampling: dict[str, Any],
    about: dict[str, Any],
    out: Path | None,
) -> None:
    """Texts to the terminal as they come and, where `out` is given, to results.jsonl."""
    from tqdm import tqdm

    with nullcontext() if out is None else (out / "results.jsonl").open("w", encoding="utf-8") as results:
        for indices, part, settings in chunks(command, items, sampling, about["seed"], 32):
            images = [item.images for item in part]
            if command == "caption":
                made = pipeline.caption(images, **settings)
            else:
                made = pipeline.answer(images, [item.text for item in part], **settings)
            for index, item, text in zip(indices, part, made, strict=True):
                tqdm.write(": ".join([*item.images, *([item.text] if item.text else []), text]))  # beside the bar
                if results is not None:
                    asked = {TEXT[command]: item.text} if command in TEXT else {}
                    _record(results, {"id": item.id, "index": index, **asked, "text": text}, item, about)


def _record(results: Any, fields: dict[str, Any], item: Item, about: dict[str, Any]) -> None:
    images = {"image": list(item.images)} if item.images else {}
    results.write(json.dumps(fields | images | about, ensure_ascii=False) + "\n")
    results.flush()


def grid(pictures: list[Image.Image]) -> Image.Image:
    """The pictures in rows, about as many as in a row, on white."""
    from PIL import Image

    columns = max(1, round(len(pictures) ** 0.5 + 0.49))
    (width, height), gap = pictures[0].size, 2
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        sheet.paste(picture, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet
