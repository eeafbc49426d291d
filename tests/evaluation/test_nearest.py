"""Nearest neighbours beside a loop, whatever the lengths of the features."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from unifluid.evaluation import nearest as module
from unifluid.evaluation.nearest import nearest


def test_as_a_loop_finds_them(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randn(n, 6, generator=generator) for n in (25, 40))
    expected = [cosine_similarity(q[None], gallery).argmax().item() for q in queries]
    assert nearest(queries, gallery).tolist() == expected
    assert nearest(queries * 7, gallery * torch.rand(40, 1, generator=generator)).tolist() == expected
    monkeypatch.setattr(module, "BLOCK", 4)
    assert nearest(queries, gallery).tolist() == expected


def test_a_picture_of_the_gallery_finds_itself():
    gallery = torch.eye(5)
    assert nearest(gallery.flip(0), gallery).tolist() == [4, 3, 2, 1, 0]


def test_what_has_no_neighbours():
    with pytest.raises(ValueError, match="no neighbours"):
        nearest(torch.ones(2, 3), torch.ones(0, 3))
    with pytest.raises(ValueError, match="no neighbours"):
        nearest(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="not finite"):
        nearest(torch.ones(2, 3), torch.full((2, 3), float("nan")))
