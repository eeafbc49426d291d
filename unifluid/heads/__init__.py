"""Heads: from hidden states to distributions over the next token, of text or of an image."""

from unifluid.heads.classification import ClassificationHead
from unifluid.heads.diffusion_mlp import DiffusionMLP
from unifluid.heads.flow_mlp import FlowMLP

__all__ = ["ClassificationHead", "DiffusionMLP", "FlowMLP"]
