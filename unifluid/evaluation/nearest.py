"""Nearest neighbours in feature space: which real picture does a drawn one resemble most?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

BLOCK = 1024  # queries at once: similarities take BLOCK · N numbers


def nearest(queries: Tensor, gallery: Tensor) -> Tensor:
    """For each of the queries (M, F) the index (M,) of the most similar, by cosine, of the gallery's features (N, F).

    Raises ValueError for an empty gallery, other widths, or features that are not finite.
    """
    if not len(gallery) or queries.shape[1:] != gallery.shape[1:]:
        raise ValueError(f"no neighbours of {tuple(queries.shape)} features among {tuple(gallery.shape)}")
    if not (queries.isfinite().all() and gallery.isfinite().all()):
        raise ValueError("some features are not finite")
    queries, gallery = normalize(queries.double(), dim=1), normalize(gallery.double(), dim=1)
    return torch.cat([(part @ gallery.T).argmax(1) for part in queries.split(BLOCK)] or [torch.zeros(0).long()])
