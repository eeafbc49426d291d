"""Image encoders: pixels -> features, for understanding."""

from unifluid.encoders.patches import Patches
from unifluid.encoders.siglip import SigLIP
from unifluid.encoders.timm_encoder import TimmEncoder

__all__ = ["Patches", "SigLIP", "TimmEncoder"]
