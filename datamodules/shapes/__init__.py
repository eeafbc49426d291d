"""Synthetic scenes of coloured shapes: every task, exact ground truth, no files. `Shapes` is the data set."""

from datamodules.shapes.dataset import Shapes, corpus
from datamodules.shapes.language import parse_caption

__all__ = ["Shapes", "corpus", "parse_caption"]
