"""UniFluid (arXiv 2503.13436): one transformer that draws what a sentence says and describes what an image shows.

>>> import unifluid
>>> pipeline = unifluid.load("runs/demo/last.ckpt")
>>> pipeline.generate(["a red circle"])[0].save("circle.png")
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Pipeline", "UniFluid", "load"]

_HOMES = {"Pipeline": "unifluid.pipeline", "UniFluid": "unifluid.modules.unifluid", "load": "unifluid.pipeline"}


def __getattr__(name: str) -> Any:
    """Import on first use: `import unifluid` and `unifluid --help` must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'unifluid' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
