"""The best pictures of a data set, by any quality, in their order."""

import pytest
import torch

from datamodules import Best, Stream
from datamodules.base import Wrapper
from datamodules.mixture import MixedRows
from datamodules.shapes import Shapes
from unifluid.configs import build, describe
from unifluid.evaluation.quality import Colourfulness
from unifluid.interfaces import ImageQuality


class Redness(ImageQuality):
    """Mean red, a few equal; counts what it is asked."""

    name = "redness"

    def __init__(self):
        self.loaded, self.asked = 0, 0

    def load(self):
        self.loaded += 1

    def scores(self, images, device):
        assert self.loaded and device == torch.device("cpu") and len(images) <= 64
        self.asked += len(images)
        return [float(image[0].float().mean() // 10) for image in images]


def data(task="generate", length=150):
    return Shapes(task, length=length)


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_the_best_share_in_its_order(task):
    whole, quality = data(task), Redness()
    best = Best(whole, quality, share=0.1)
    assert len(best) == 15 and quality.asked == 0, "nothing is scored before an example is asked for"
    chosen = [best[i].id for i in range(15)]
    red = {whole[i].id: float(whole[i].target[0].float().mean() // 10) for i in range(150)}
    ranked = sorted(red, key=lambda id: -red[id])  # of equals, the first
    assert chosen == sorted(ranked[:15], key=list(red).index)
    assert min(red[id] for id in chosen) >= max(red[id] for id in red if id not in chosen)
    assert (quality.loaded, quality.asked) == (1, 150)
    assert best.at(3).id == best[3].id and best.task == task
    with pytest.raises(IndexError):
        best[15]


def test_the_rest_is_the_data_sets_own():
    whole = data("edit")
    best = Best(whole, Redness(), share=0.1)
    assert best.score_edit(best[0], best[0].target) == (True, True)
    assert best.texts.__func__ is Wrapper.texts and best.sources == whole.sources


def test_all_of_them():
    assert [Best(data(length=5), Redness(), share=1)[i].id for i in range(5)] == [data()[i].id for i in range(5)]


def test_it_is_recorded_and_drawn_from():
    best = Best(data(length=20), Colourfulness(), share=0.1)
    again = build(describe(best), ("unifluid", "datamodules"))
    assert [again[i].id for i in range(2)] == [best[i].id for i in range(2)]
    ids = {best[i].id for i in range(2)}
    rows = MixedRows({"a": Stream(best, 4)}, {"a": 4}, seed=0)
    assert {rows[i][1].id for i in range(8)} == ids


@pytest.mark.parametrize(
    ("task", "share", "message"),
    [
        ("caption", 0.2, "Best takes a data set of pictures to be drawn, got one of task caption"),
        ("generate", 0, "Best.share must leave some of 150 examples and be at most 1, got 0"),
        ("generate", 1.5, "Best.share must leave some of 150 examples and be at most 1, got 1.5"),
        ("generate", 0.006, "Best.share must leave some of 150 examples"),
    ],
)
def test_mistakes_have_one_clear_line(task, share, message):
    with pytest.raises(ValueError, match=message):
        Best(data(task), Redness(), share)
