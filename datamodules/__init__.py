"""Data: mixtures of caption, question, text-to-image and edit streams, and the datasets they draw from."""

from datamodules.base import ExampleDataset
from datamodules.coco import CocoCaptions, CocoPictures
from datamodules.folder import Folder
from datamodules.mixture import Mixture, Stream
from datamodules.moments import CachedMoments
from datamodules.tables import HQEdit, Table, UltraEdit
from datamodules.transforms import CentreCrop, Flips, Moves
from datamodules.vqa import VQA
from datamodules.webdataset import WebDataset

__all__ = [
    "VQA",
    "CachedMoments",
    "CentreCrop",
    "CocoCaptions",
    "CocoPictures",
    "ExampleDataset",
    "Flips",
    "Folder",
    "HQEdit",
    "Mixture",
    "Moves",
    "Stream",
    "Table",
    "UltraEdit",
    "WebDataset",
]
