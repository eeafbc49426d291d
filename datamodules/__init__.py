"""Data: mixtures of caption, question, text-to-image and edit streams, and the datasets they draw from."""

from datamodules.base import ExampleDataset
from datamodules.folder import Folder
from datamodules.mixture import Mixture, Stream

__all__ = ["ExampleDataset", "Folder", "Mixture", "Stream"]
