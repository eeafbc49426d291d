"""Every benchmark at tiny sizes writes what it promises, and none reports a speed where results differ."""

import importlib
import json

import pytest
import torch

from benchmarks import harness, timing
from benchmarks.textbook import groups
from unifluid.heads import DiffusionMLP

ROWS = {  # a case that each must have
    "head": "diffusion, 100 steps, batch 1, fp32",
    "decode": "picture, composed, batch 1, fp32, beside recomputation",
    "text": "greedy, batch 3",
    "train": "step, demo",
    "scaling": "batch: exponent",
    "startup": "unifluid --help",
    "data": "WebDataset",
    "quality": "25 steps",
    "gpu": "step of the 2B recipe",
}
ABOUT = {"name", "title", "date", "commit", "hardware", "tiny", "rows", "notes"}
HARDWARE = {"cpu", "cores", "threads", "instructions", "torch"}


def run(name, folder, *flags):
    module = importlib.import_module("benchmarks.gpu.__main__" if name == "gpu" else f"benchmarks.{name}")
    args = ["--tiny", "--repeats", "1", "--out", str(folder), *flags]
    return harness.main(name, module.__doc__, module.run, args, getattr(module, "flags", lambda _: None))


@pytest.mark.parametrize("name", ROWS)
def test_tiny_sizes_write_what_is_promised(name, tmp_path):
    run(name, tmp_path)
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found.keys() == ABOUT and found["hardware"].keys() >= HARDWARE and found["tiny"]
    rows = {row["case"]: row for row in found["rows"]}
    assert ROWS[name] in rows and len(rows) == len(found["rows"])
    assert not [row for row in rows.values() if row.get("error")]  # of parts of the GPU's
    for row in rows.values():
        if row.get("ratio"):
            assert row["ratio"] == pytest.approx(row["reference_ms"] / row["ours_ms"], rel=0.01, abs=1e-3)
            assert row["ours_min_ms"] <= row["ours_ms"] <= row["ours_max_ms"] and row["n"] == 1
    table = (tmp_path / f"{name}.md").read_text()
    assert "mean nothing" in table and all(f"| {case} |" in table for case in rows)


def test_whole_pictures(tmp_path):
    run("decode", tmp_path, "--full", "--cases", "fp32")
    rows = {row["case"]: row for row in json.loads((tmp_path / "decode.json").read_text())["rows"]}
    assert rows["picture, batch 1, fp32, beside recomputation"]["max_error"] < 1e-4
    assert "picture, batch 1, fp32, beside masked decoding, 16 iterations" in rows


@pytest.mark.parametrize("name", ["head", "decode"])
def test_no_speed_where_results_differ(name, tmp_path, monkeypatch):
    right = DiffusionMLP.sample
    monkeypatch.setattr(DiffusionMLP, "sample", lambda self, *args: 1.001 * right(self, *args))
    with pytest.raises(ValueError, match="do not give the same: they differ by 0.001"):
        run(name, tmp_path, "--cases", "batch 1, fp32" if name == "head" else "composed, batch 1, fp32")
    assert not (tmp_path / f"{name}.json").exists()


def test_an_interrupted_run_keeps_its_rows(tmp_path):
    def interrupted(bench):
        bench.compare("first", lambda: torch.ones(2), lambda: torch.ones(2), tolerance=0.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.main("some", "Some.", interrupted, ["--out", str(tmp_path), "--repeats", "3"])
    (row,) = json.loads((tmp_path / "some.json").read_text())["rows"]
    assert row["n"] == 3 and row["max_error"] == 0


def test_cases_add_to_a_file_of_the_same_commit_only(tmp_path, monkeypatch):
    def measure(bench):
        for case in ("a", "b"):
            if bench.wants(case):
                bench.compare(case, lambda: None)

    def cases():
        return [row["case"] for row in json.loads((tmp_path / "some.json").read_text())["rows"]]

    for commit, chosen, expected in (
        ("1", "a", ["a"]),
        ("1", "b", ["a", "b"]),
        ("1", "a", ["a", "b"]),
        ("2", "b", ["b"]),
    ):
        monkeypatch.setattr(harness, "commit", lambda commit=commit: commit)
        harness.main("some", "Some.", measure, ["--out", str(tmp_path), "--cases", chosen, "--repeats", "1"])
        assert cases() == expected


def test_both_sides_are_timed_in_turn():
    order = []
    clocks = {side: lambda side=side: order.append(side) or float(len(order)) for side in ("ours", "reference")}
    assert timing.interleaved(clocks, 2) == {"ours": [1.0, 3.0], "reference": [2.0, 4.0]}
    assert order == ["ours", "reference"] * 2


def test_what_is_not_a_number_differs():
    assert timing.difference(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")
    assert timing.difference(torch.ones(2), torch.ones(3)) == float("inf")


@pytest.mark.parametrize(("places", "iterations"), [(256, 256), (256, 64), (256, 8), (16, 16)])
def test_masked_decoding_draws_all_places_by_the_cosine(places, iterations):
    drawn = groups(places, iterations)
    assert len(drawn) == iterations and sum(drawn) == places and min(drawn) >= 1
    assert drawn[-1] >= drawn[0]
    if iterations == 8:  # 256 cos(π/2 · 1/8) = 251.08
        assert drawn[0] == 256 - 251
