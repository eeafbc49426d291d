"""Image encoders: pixels -> features, for understanding."""

from unifluid.encoders.patches import Patches
from unifluid.encoders.siglip import SigLIP

__all__ = ["Patches", "SigLIP"]
