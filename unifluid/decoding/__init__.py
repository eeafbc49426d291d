"""Decoding: images token by token, and text. Outside the model; both start from the same cached prefix."""

from unifluid.decoding.images import generate_images
from unifluid.decoding.sampling import ImageSampling
from unifluid.decoding.text import TextSampling, generate_text

__all__ = ["ImageSampling", "TextSampling", "generate_images", "generate_text"]
