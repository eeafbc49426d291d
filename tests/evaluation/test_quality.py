"""Colourfulness is Hasler and Süsstrunk's formula, worked out in numpy."""

import numpy as np
import pytest
import tiny
import torch

from unifluid.evaluation.quality import Colourfulness

CPU = torch.device("cpu")


def by_numpy(image):
    red, green, blue = image.numpy().astype(np.float64)
    rg, yb = red - green, 0.5 * (red + green) - blue
    spread = np.sqrt(np.var(rg) + np.var(yb))
    return spread + 0.3 * np.sqrt(np.mean(rg) ** 2 + np.mean(yb) ** 2)


def plain(*rgb):
    return torch.tensor(rgb, dtype=torch.uint8)[:, None, None].expand(3, 5, 7)


def test_the_formula():
    images = [tiny.image(seed, size) for seed, size in ((0, 8), (1, 5), (2, 31))]
    assert Colourfulness().scores(images, CPU) == pytest.approx([by_numpy(image) for image in images], rel=1e-12)


def test_known_pictures():
    grey = torch.arange(48, dtype=torch.uint8).view(1, 6, 8).expand(3, 6, 8)
    halves = torch.cat([plain(255, 0, 0), plain(0, 255, 0)], 2)  # rg = ±255, yb = 127.5
    scores = Colourfulness().scores([grey, plain(90, 90, 90), plain(255, 0, 0), halves], CPU)
    red = 0.3 * 255 * (1 + 1 / 4) ** 0.5
    assert scores == pytest.approx([0, 0, red, 255 + 0.3 * 127.5])
    assert Colourfulness().scores([], CPU) == []
