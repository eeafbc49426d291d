"""Backbones: decoders over embedded tokens with prefix-LM attention."""

from unifluid.backbones.decoder import Decoder
from unifluid.backbones.huggingface import HuggingFaceBackbone, LoRA

__all__ = ["Decoder", "HuggingFaceBackbone", "LoRA"]
