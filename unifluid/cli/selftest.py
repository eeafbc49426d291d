"""selftest: a detector and a colour classifier on pictures whose content is known, before scores are believed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unifluid.cli.errors import Parser


def run(command: str, args: list[str]) -> None:
    """Raises ValueError where something was not recognised that must be."""
    from unifluid.cli.judges import HELP, judges

    parser = Parser(command, "Try the judges of GenEval on pictures whose content is known.")
    parser.add_argument(
        "--images",
        metavar="FILE",
        help='your own pictures: .jsonl with lines {"image": "cat.jpg", "tag": "single_object", "prompt": "a cat", '
        '"include": [{"class": "cat", "count": 1}]}; paths are relative to it',
    )
    parser.add_argument("--device", help="default: the GPU where there is one")
    parser.epilog = HELP
    options, rest = parser.parse_known_args(args)
    own = list(_own(options.images)) if options.images else []
    detector, colours = judges(rest)

    from rich import print as rich_print
    from rich.table import Table

    from unifluid.evaluation.geneval import score_images
    from unifluid.evaluation.known import painted
    from unifluid.pipeline import choose_device

    device = choose_device(options.device)
    table = Table("picture", "expected", "found", "", title="what is known, and what was found")
    wrong, cases = [], [*known_to(detector), *own]
    judged = score_images([image for image, _ in cases], [asked for _, asked in cases], detector, colours, device)
    for (_, asked), (right, objects) in zip(cases, judged, strict=True):
        found = ", ".join(f"{d.name} {d.score:.2f}" for some in objects.values() for d in some) or "nothing"
        table.add_row(asked["tag"], asked["prompt"], found, "ok" if right else "[red]wrong")
        wrong += [] if right else [asked["prompt"]]
    if type(detector) is not type(colours):  # the analyser of scenes knows the colours of what it has found itself
        for image, detection, expected in painted():
            (found,) = colours.colours(image, [detection], device)
            table.add_row("colour alone", f"a {expected} ball", found, "ok" if found == expected else "[red]wrong")
            wrong += [] if found == expected else [f"a {expected} ball"]
    rich_print(table)
    if wrong:
        raise ValueError(f"{len(wrong)} of {table.row_count} were not recognised: {'; '.join(wrong)}")
    print(f"all {table.row_count} recognised")


def known_to(detector: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Rendered pictures of what this detector should know: synthetic scenes for their analyser, else COCO's things."""
    from datamodules.shapes import Shapes
    from datamodules.shapes.analyser import ShapesAnalyser
    from unifluid.evaluation.known import rendered

    if not isinstance(detector, ShapesAnalyser):
        yield from rendered()
        return
    for i in range(12):
        example = Shapes("generate", split="val")[i]
        yield example.target, {**example.meta, "prompt": example.condition}


def _own(path: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The user's pictures with their metadata. Raises ValueError naming file and line."""
    from datamodules.geneval_prompts import checked
    from datamodules.images import BadImage, read_image

    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file of expectations")
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        if line.strip():
            metadata = checked(line, f"{path}:{number}")
            if not isinstance(metadata.get("image"), str):
                raise ValueError(f'{path}:{number}: names no "image"')
            try:
                yield read_image(Path(path).parent / metadata["image"]), metadata
            except BadImage as error:
                raise ValueError(f"{path}:{number}: {error}") from error
