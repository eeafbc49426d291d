"""Perfect edits score 1, sources as they were 0; what is reported is what was judged."""

import functools
import json

import pytest
import torch
from toy import make_data, make_module, make_trainer, replace_drawing

from callbacks import edits
from callbacks.edits import EditAccuracy
from datamodules.base import ExampleDataset
from datamodules.shapes import Shapes
from datamodules.shapes.edits import EDITS
from unifluid.decoding import ImageSampling
from unifluid.evaluation.scores import Score

EXAMPLES = Shapes("edit", split="val")


class Unjudged(Shapes):
    """As any data set that knows no better."""

    score_edit = ExampleDataset.score_edit


@pytest.fixture
def draw(monkeypatch):
    return functools.partial(replace_drawing, monkeypatch, edits)


def scores_of(tmp_path, dataset=EXAMPLES, **options):
    make_trainer(tmp_path, EditAccuracy(dataset, **options), steps=1).fit(make_module(), make_data())
    return json.loads((tmp_path / "scores.json").read_text())


def test_perfect_pictures(tmp_path, draw):
    calls = draw(lambda i, example: example.target)
    scores = scores_of(tmp_path, n=40, seed=3, sampling=ImageSampling(steps=7, batch_size=16))
    names = ("accuracy", "right", "untouched")
    assert [scores[f"edits/{name}"] for name in names] == [1.0] * 3
    assert [scores[f"n/edits/{name}"] for name in names] == [40] * 3
    assert {kind: scores[f"edits/{kind}"] for kind in EDITS} == dict.fromkeys(EDITS, 1.0)
    assert sum(scores[f"n/edits/{kind}"] for kind in EDITS) == 40
    assert scores["sampling/edits/steps"] == 7 and scores["edits/accuracy/low"] == Score.of([True] * 40).low
    assert [indices for *_, indices in calls] == [list(range(16)), list(range(16, 32)), list(range(32, 40))]
    assert calls[1][0][0].id == EXAMPLES[16].id and calls[0][1].steps == 7 and calls[0][2] == 3


def test_sources_as_they_were(tmp_path, draw):
    draw(lambda i, example: example.image)
    scores = scores_of(tmp_path, n=40)
    assert scores["edits/right"] == scores["edits/accuracy"] == 0 and scores["edits/untouched"] == 1


def test_nothing_at_all_and_pictures_of_other_edits(tmp_path, draw):
    draw(lambda i, example: torch.zeros_like(example.target) if i % 2 else EXAMPLES[i + 1].target)
    scores = scores_of(tmp_path, n=20)
    assert scores["edits/accuracy"] == scores["edits/untouched"] == 0
    assert scores["edits/right"] < 0.2, "what should go may be missing by chance"


def test_some_kinds_only(tmp_path, draw):
    draw(lambda i, example: example.target if example.meta["kind"] == "remove" else example.image)
    scores = scores_of(tmp_path, n=20)
    assert {kind: scores[f"edits/{kind}"] for kind in EDITS} == {kind: float(kind == "remove") for kind in EDITS}
    assert scores["edits/accuracy"] == scores["n/edits/remove"] / 20
    items = json.loads((tmp_path / "results" / "edits_items.json").read_text())
    assert items["accuracy"] == [float(EXAMPLES[i].meta["kind"] == "remove") for i in range(20)]
    assert items["untouched"] == [1.0] * 20 and items["remove"] == [1.0] * scores["n/edits/remove"]
    (line,) = (tmp_path / "results" / "edits.jsonl").read_text().splitlines()
    assert json.loads(line)["scores"]["accuracy"]["value"] == scores["edits/accuracy"] and "items" not in line


def test_what_is_shown(tmp_path, draw):
    draw(lambda i, example: example.target if i else example.image)
    shown = []

    class Spy(EditAccuracy):
        def cells(self, outcomes):
            shown.extend(super().cells(outcomes))
            return shown

    make_trainer(tmp_path, Spy(EXAMPLES, n=4, show=2), steps=1).fit(make_module(), make_data())
    assert [[line.text for line in cell.lines] for cell in shown] == [
        [EXAMPLES[0].instruction, "not done"],
        [EXAMPLES[1].instruction, "right"],
    ]
    source, drawn = shown[1].pictures
    assert torch.equal(source, EXAMPLES[1].image) and torch.equal(drawn, EXAMPLES[1].target)
    assert (tmp_path / "results" / "edits.png").exists()


def test_a_real_model_is_judged(tmp_path):
    scores = scores_of(tmp_path, n=2, sampling=ImageSampling(steps=1))
    assert scores["edits/accuracy"] == 0 and scores["n/edits/accuracy"] == 2


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Shapes("generate"), "^edits: EditAccuracy needs a data set of task edit, got generate"),
        (Unjudged("edit"), "^edits: Unjudged cannot judge edits"),
    ],
)
def test_mistakes_stop_the_run_before_it_starts(dataset, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        scores_of(tmp_path, dataset, n=2)
