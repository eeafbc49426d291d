"""Image encoders: pixels -> features, for understanding."""

from unifluid.encoders.patches import Patches

__all__ = ["Patches"]
