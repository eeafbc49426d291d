"""`unifluid data`: flags reach the builders."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.runs import error_line

import datamodules.emoji
from unifluid.cli.main import main


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(datamodules.emoji, "fetch", lambda *a: made.append(("fetch", *a)))
    monkeypatch.setattr(datamodules.emoji, "build", lambda *a: made.append(("build", *a)) or {"concepts": 3})
    return made


def test_emoji_are_fetched_where_there_are_none(calls, tmp_path, capsys):
    sources = tmp_path / "emoji" / "sources"
    args = ["--styles", "noto", "twemoji", "--extra", "fxemoji", "--size", "64"]
    assert main(["data", "emoji", "--out", str(tmp_path / "emoji"), *args]) == 0
    assert calls[0] == ("fetch", sources, ["noto", "twemoji"], ["fxemoji"])
    assert calls[1] == ("build", sources, str(tmp_path / "emoji"), 64, ["noto", "twemoji"], ["fxemoji"])
    assert "3 concepts" in capsys.readouterr().out
    sources.mkdir(parents=True)
    (sources / "a.tgz").touch()
    assert main(["data", "emoji", "--out", str(tmp_path / "emoji")]) == 0
    assert [name for name, *_ in calls[2:]] == ["build"]


def test_given_sources_are_used(calls, tmp_path):
    assert main(["data", "emoji", "--out", str(tmp_path), "--sources", "here"]) == 0
    assert [c[:2] for c in calls] == [("build", "here")]


def test_mistakes_end_in_one_line(tmp_path, capsys):
    assert "--out" in error_line(capsys, "data", "emoji")
    assert "--nothing" in error_line(capsys, "data", "emoji", "--out", tmp_path, "--nothing")
    assert "nowhere" in error_line(capsys, "data", "emoji", "--out", tmp_path, "--sources", Path("nowhere"))
    assert main(["data"]) == main(["data", "--help"]) == main(["data", "emoji", "--help"]) == 0
