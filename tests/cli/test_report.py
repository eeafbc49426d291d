"""`unifluid report`: what it is told wrong is one line, before there is a page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli.runs import error_line

from unifluid.cli.main import main


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("seed_everything: 3\n")
    return folder


def test_a_run_without_scores_gets_a_page(run, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert main(["report", str(run), "--out", str(out), "--title", "Mine", "--label", "first"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = out.read_text()
    assert "<title>Mine</title>" in text and "No scores yet: first." in text and "Nothing was logged" in text


def test_mistakes_are_one_line(run, tmp_path, capsys):
    page = str(tmp_path / "page.html")
    assert "no such folder" in error_line(capsys, "report", tmp_path / "nothing", "--out", page)
    assert "no run, it holds neither" in error_line(capsys, "report", tmp_path, "--out", page)
    assert "--out" in error_line(capsys, "report", run)
    assert "1 runs have 2 labels" in error_line(capsys, "report", run, "--out", page, "--label", "a", "--label", "b")
    assert error_line(capsys, "report", run, "--out", tmp_path).startswith(f"{tmp_path}: is a folder")
    inside = run / "config.yaml" / "page.html"  # root may write everywhere else
    assert error_line(capsys, "report", run, "--out", inside).startswith(f"{inside}: ")
    assert not Path(page).exists() and sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_missing_library_is_named_with_its_extra(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    line = error_line(capsys, "report", run, "--out", tmp_path / "page.html")
    assert line == "a page needs the package matplotlib: pip install 'unifluid[report]'"
