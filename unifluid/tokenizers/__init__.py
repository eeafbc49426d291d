"""Tokenizers: text <-> ids, pixels <-> continuous tokens."""

from unifluid.tokenizers.autoencoder_kl import AutoencoderKL
from unifluid.tokenizers.huggingface import HuggingFaceTokenizer
from unifluid.tokenizers.pixels import Pixels
from unifluid.tokenizers.sentencepiece import SentencePiece
from unifluid.tokenizers.small_kl import SmallKL

__all__ = ["AutoencoderKL", "HuggingFaceTokenizer", "Pixels", "SentencePiece", "SmallKL"]
