"""Statistics of real images, computed once and kept: mean and covariance of their features in an .npz file.

`mu` and `sigma` are the names that other projects use, so either reads the other's. Ours also hold `n`, `about` (what
images, prepared how, seen by which network, as JSON) and, where scores need them, the `features` themselves.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unifluid.evaluation.frechet import Normal


@dataclass(frozen=True)
class Statistics:
    """Features of real images, summarised; `about` is None in files of other projects."""

    normal: Normal
    about: dict[str, Any] | None = None
    features: Tensor | None = field(default=None, repr=False)  # (n, F)

    @classmethod
    def of(cls, features: Tensor, about: dict[str, Any], keep: bool = False) -> Statistics:
        return cls(Normal.of(features), about, features if keep else None)

    def write(self, path: str | Path) -> None:
        """Whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"mu": self.normal.mean, "sigma": self.normal.covariance, "n": self.normal.n}
        arrays |= {"about": json.dumps(self.about, sort_keys=True)}
        arrays |= {} if self.features is None else {"features": self.features}
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            np.savez(file, **{name: np.asarray(value) for name, value in arrays.items()})
        os.replace(partial, path)

    def check(self, path: str | Path, about: dict[str, Any]) -> None:
        """Raises ValueError, naming the first difference, where they are known to be of something else."""
        for name, wanted in about.items() if self.about is not None else ():
            found = self.about.get(name)
            if found != json.loads(json.dumps(wanted)):
                raise ValueError(f"{path}: its {name} is {found!r}, here {wanted!r}: name another file to make anew")


def read_statistics(path: str | Path) -> Statistics:
    """Raises ValueError, naming the file, where it holds none; no stored object is ever built."""
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = (torch.from_numpy(file[name]).double() for name in ("mu", "sigma"))
            about = json.loads(str(file["about"])) if "about" in file else None
            features = torch.from_numpy(file["features"]) if "features" in file else None
            n = int(file["n"]) if "n" in file else 0
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file of statistics") from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no statistics of features, an .npz with mu and sigma ({error})") from error
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"{path}: mu {tuple(mean.shape)} and sigma {tuple(covariance.shape)} do not belong together")
    return Statistics(Normal(mean, covariance, n), about, features)
