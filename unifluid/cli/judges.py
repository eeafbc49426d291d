"""The detector and colour classifier that a command is told to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unifluid.cli.parts import instantiate, parse
from unifluid.cli.trainer import prepare

if TYPE_CHECKING:
    from unifluid.interfaces import ColourClassifier, Detector

HELP = (
    "--detector CLASS and --colours CLASS name the judges, --detector.ARGUMENT their settings: "
    "unifluid.evaluation.mask2former.Mask2Former (.folder) and unifluid.evaluation.clip.CLIPColours (.folder) for "
    "photographs, datamodules.shapes.analyser.ShapesAnalyser as both for synthetic scenes"
)


def judges(args: list[str]) -> tuple[Detector, ColourClassifier]:
    """Built and loaded. Raises ValueError where one is not named, or its files are missing."""
    from unifluid.interfaces import ColourClassifier, Detector

    args = prepare(args)
    about_colours = [arg for arg in _joined(args) if arg.startswith("--colours")]
    about_detector = [arg for arg in _joined(args) if not arg.startswith("--colours")]
    detector = instantiate(Detector, "detector", parse(Detector, "detector", about_detector))
    colours = instantiate(ColourClassifier, "colours", parse(ColourClassifier, "colours", about_colours))
    detector.load()
    colours.load()
    return detector, colours


def _joined(args: list[str]) -> list[str]:
    """`--name value` as `--name=value`."""
    made: list[str] = []
    for arg in args:
        if made and "=" not in made[-1] and not arg.startswith("--"):
            made[-1] = f"{made[-1]}={arg}"
        else:
            made.append(arg)
    return made
