"""score geneval: a folder of images in GenEval's official layout, whoever drew them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unifluid.cli.errors import Parser, count
from unifluid.cli.score.results import check_writable, keep

BATCH = 16
SUFFIXES = (".png", ".jpg", ".jpeg")


def run(args: list[str]) -> None:
    parser = Parser("score geneval", "Score images by GenEval's rules: DIR/00000/metadata.jsonl, samples/0000.png, …")
    parser.add_argument("--images", required=True, metavar="DIR", help="the folder, in the official layout")
    parser.add_argument("--samples", type=count, help="images each prompt must have (default: as the first one)")
    parser.add_argument("--device", help="default: the GPU where there is one")
    parser.add_argument("--results", metavar="FILE", help="write a line for each image, as the official script does")
    parser.add_argument("--out", metavar="FILE", help="write the scores as JSON")
    from unifluid.cli.judges import HELP, judges

    parser.epilog = HELP
    options, rest = parser.parse_known_args(args)
    check_writable(options.out, options.results)
    samples = find_samples(options.images, options.samples)
    detector, colours = judges(rest)

    from tqdm import tqdm

    from callbacks.blocks import grouped
    from unifluid.evaluation.geneval import score_images, summary
    from unifluid.pipeline import choose_device

    device = choose_device(options.device)
    outcomes: list[dict[str, Any]] = []
    with tqdm(total=len(samples), desc="geneval", unit="image") as bar:
        for start in range(0, len(samples), BATCH):
            part = samples[start : start + BATCH]
            images = [_read(path) for path, _ in part]
            judged = score_images(images, [metadata for _, metadata in part], detector, colours, device)
            for (path, metadata), (right, objects) in zip(part, judged, strict=True):
                outcomes.append(_outcome(path, metadata, right, objects))
            bar.update(len(part))
    if options.results:
        from datamodules.formats.jsonl import write_jsonl

        write_jsonl(options.results, outcomes)
    scores = summary(grouped(outcomes, "tag", "correct"))
    for name, score in scores.items():
        print(f"{name:14} {score.value:.4f}  (95 %: {score.low:.3f} – {score.high:.3f}, {score.n} images)")
    print(f"n_expected {len(samples)}, n_scored {len(outcomes)}")
    if options.out:
        name = "geneval" + detector.suffix + colours.suffix
        record = {f"{name}/{tag}": score.value for tag, score in scores.items()} | detector.about() | colours.about()
        record |= {"n_expected": len(samples), "n_scored": len(outcomes), "images": options.images}
        keep(options.out, record)


def find_samples(folder: str, each: int | None) -> list[tuple[Path, dict[str, Any]]]:
    """All images with their metadata. Raises ValueError naming what is missing: nothing is scored in part."""
    from datamodules.geneval_prompts import checked

    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder of images")
    places = sorted(path for path in Path(folder).iterdir() if path.is_dir() and path.name.isdecimal())
    if not places:
        raise ValueError(f"{folder}: not GenEval's layout, it holds no folder 00000, 00001, …")
    found: list[tuple[Path, dict[str, Any]]] = []
    for place in places:
        if not (place / "metadata.jsonl").is_file():
            raise ValueError(f"{place}: holds no metadata.jsonl")
        metadata = checked((place / "metadata.jsonl").read_bytes().strip(), f"{place / 'metadata.jsonl'}:1")
        images = sorted(path for path in (place / "samples").glob("*") if path.suffix.lower() in SUFFIXES)
        each = len(images) if each is None else each
        if len(images) != each or not images:
            raise ValueError(f"{place / 'samples'}: {len(images)} images, {each or 'at least 1'} expected (--samples)")
        found += [(path, metadata) for path in images]
    return found


def _read(path: Path) -> Any:
    from datamodules.images import BadImage, read_image

    try:
        return read_image(path)
    except BadImage as error:
        raise ValueError(f"{path}: {error}: draw it again, nothing is scored in part") from error


def _outcome(path: Path, metadata: dict[str, Any], right: bool, objects: Any) -> dict[str, Any]:
    details = {name: [{"score": d.score, "box": list(d.box)} for d in some] for name, some in objects.items()}
    fields = {"filename": str(path), "tag": metadata["tag"], "prompt": metadata["prompt"], "correct": right}
    return {**fields, "metadata": json.dumps(metadata), "details": json.dumps(details)}
