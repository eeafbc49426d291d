"""Backbones: decoders over embedded tokens with prefix-LM attention."""

from unifluid.backbones.decoder import Decoder

__all__ = ["Decoder"]
