"""Data: mixtures of caption, question, text-to-image and edit streams, and the datasets they draw from."""

from datamodules.base import ExampleDataset
from datamodules.best import Best
from datamodules.formats.coco import CocoCaptions, CocoPictures
from datamodules.formats.folder import Folder
from datamodules.formats.tables import HQEdit, Table, UltraEdit
from datamodules.formats.vqa import VQA
from datamodules.formats.webdataset import WebDataset
from datamodules.geneval_prompts import GenEvalPrompts
from datamodules.mixture import Mixture, Stream
from datamodules.moments import CachedMoments
from datamodules.text_only import TextOnly
from datamodules.transforms import CentreCrop, Flips, Moves

__all__ = [
    "VQA",
    "Best",
    "CachedMoments",
    "CentreCrop",
    "CocoCaptions",
    "CocoPictures",
    "ExampleDataset",
    "Flips",
    "Folder",
    "GenEvalPrompts",
    "HQEdit",
    "Mixture",
    "Moves",
    "Stream",
    "Table",
    "TextOnly",
    "UltraEdit",
    "WebDataset",
]
