"""What is read from a run's folder, against files written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unifluid.evaluation.scores import Score
from unifluid.report.charts import chart, looks, mean, thinned
from unifluid.report.runs import Curve, flatten, group_scores, history, read_events, read_results, read_runs
from unifluid.report.tables import duration


def test_classes_in_a_list_go_by_name():
    config = {
        "callbacks": [
            {"class_path": "a.FID"},
            {"class_path": "b.EMA", "init_args": {"decay": 0.9}},
            {"class_path": "a.FID"},
        ]
    }
    assert dict(flatten(config | {"tags": ["x", 1], "none": None, "empty": {}})) == {
        "callbacks.FID.class_path": "a.FID",
        "callbacks.EMA.class_path": "b.EMA",
        "callbacks.EMA.init_args.decay": "0.9",
        "callbacks.FID[2].class_path": "a.FID",
        "tags": '["x", 1]',
        "none": "null",
        "empty": "{}",
    }


def test_scores_are_grouped_by_what_wrote_them():
    flat = {"frechet/raw/net": 12.5, "n/frechet/raw/net": 8, "weights/frechet/raw": "raw", "step/frechet/raw": 4}
    flat |= {"qa/a": 0.5, "n/qa/a": 2, "qa/a/low": 0.1, "qa/a/high": 0.9, "weights/qa": "ema", "train/seconds": 3.0}
    scores, about = group_scores(flat)
    assert scores == {"frechet/raw": {"net": Score(12.5, 8)}, "qa": {"a": Score(0.5, 2, 0.1, 0.9)}}
    assert about == {"frechet/raw": {"weights": "raw", "step": "4"}, "qa": {"weights": "ema"}}


def test_evaluations_by_step_and_weights(tmp_path):
    def line(step: int, value: float, weights: str = "ema") -> str:
        about = {"prefix": "qa", "step": step, "weights": weights, "time": "2026"}
        return json.dumps(about | {"scores": {"a": {"value": value}}})

    lines = [line(2, 0.1), line(4, 0.2), line(2, 0.7, "raw"), line(4, 0.3), '{"prefix": "qa", "sco']
    (tmp_path / "qa.jsonl").write_text("\n".join(lines))
    found = history(read_results(tmp_path))
    assert found == {"qa/a (ema)": Curve([2, 4], [0.1, 0.3]), "qa/a (raw)": Curve([2], [0.7])}


def test_events_of_an_interrupted_run(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for start, values in ((0, [3.0, 2.0, 9.0]), (2, [1.5, float("nan"), 1.0])):  # the second went on from step 2
        with SummaryWriter(tmp_path, filename_suffix=f".{start}") as writer:
            for step, value in enumerate(values, start):
                writer.add_scalar("train/text", value, step)
    with SummaryWriter(tmp_path, filename_suffix=".test") as writer:
        writer.add_scalar("val/text", 4.0, 0)  # of an evaluation
    with SummaryWriter(tmp_path / "nested") as writer:
        writer.add_scalar("train/other", 1.0, 0)
    assert read_events(tmp_path) == {"train/text": Curve([0, 1, 2, 4], [3.0, 2.0, 1.5, 1.0])}


def test_a_run_that_was_only_evaluated_differs_by_how_it_drew(tmp_path):
    for guidance in (1.0, 3.0):
        folder = tmp_path / f"guidance{guidance:.0f}"
        folder.mkdir()
        flat = {"geneval/overall": 0.5, "n/geneval/overall": 4, "sampling/geneval/guidance": guidance}
        (folder / "scores.json").write_text(json.dumps(flat))
    runs = read_runs([tmp_path / "guidance1", tmp_path / "guidance3"])
    assert [run.settings["sampling/geneval/guidance"] for run in runs] == ["1.0", "3.0"]
    assert [run.title for run in runs] == ["guidance1", "guidance3"]


def test_titles_tell_runs_apart(tmp_path):
    folders = [tmp_path / arm / seed for arm in ("a", "b") for seed in ("0", "1")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text("{}")
    assert [run.title for run in read_runs(folders)] == ["a/0", "a/1", "b/0", "b/1"]
    assert [run.title for run in read_runs(folders, ["A", "A", "B", "C"])] == ["A · 0", "A · 1", "B", "C"]
    with pytest.raises(ValueError, match="4 runs have 1 labels"):
        read_runs(folders, ["A"])
    with pytest.raises(ValueError, match="a/0 is given twice"):
        read_runs([folders[0], Path(f"{folders[1]}/../0")])
    with pytest.raises(ValueError, match="at least one run"):
        read_runs([])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.yaml", "a: [", "config.yaml: not valid YAML"),
        ("config.yaml", "- 1", "config.yaml: settings are held by name"),
        ("scores.json", "{", "scores.json: not a file of scores"),
        ("scores.json", "[]", "scores.json: not a file of scores"),
    ],
)
def test_a_damaged_file_is_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_runs([tmp_path])


def test_curves_are_thinned_and_averaged():
    assert thinned(Curve([0, 1, 2, 3, 4], [0.0, 2.0, 4.0, 6.0, 9.0]), 3) == Curve([0.5, 2.5, 4], [1.0, 5.0, 9.0])
    assert thinned(Curve([0, 5], [1.0, 2.0]), 2) == Curve([0, 5], [1.0, 2.0])
    one, other = Curve([0, 2, 4], [0.0, 2.0, 4.0]), Curve([1, 4], [3.0, 0.0])
    assert mean([one, other]) == Curve([1, 2, 4], [2.0, 2.0, 2.0])
    assert mean([Curve([0], [1.0]), Curve([1, 2], [5.0, 6.0])]) == Curve([1, 2], [5.0, 6.0])


def test_a_chart_has_a_line_for_each_run_and_one_for_a_mean():
    colours, steps = looks(["a", "b", "a"]), list(range(20))
    curves = [
        (label, Curve(steps, [1.0 + top * s for s in steps])) for label, top in (("a", 0.1), ("b", 3), ("a", 0.2))
    ]
    drawn = chart(curves, colours, falling=True)
    assert [drawn.count(f"stroke: {colours[name].colour}") for name in "ab"] == [3, 1]
    assert "#010203" not in drawn and "currentColor" in drawn
    assert ">50<" in drawn and ">50<" not in chart(curves[:1], colours, falling=True)  # a logarithmic axis and none
    assert len({*looks(list(map(str, range(24)))).values()}) == 24


def test_durations():
    assert [duration(s) for s in (12.4, 59.6, 61, 3600, 7260)] == [
        "12 s",
        "1 min 00 s",
        "1 min 01 s",
        "1 h 00 min",
        "2 h 01 min",
    ]
