"""Whatever is given to whatever setting: it works, or is refused in one line."""

from __future__ import annotations

import pytest
from cli.fuzz import faults, try_it, whole


@pytest.mark.filterwarnings("ignore")
def test_a_few_wrong_values_end_well():
    assert faults(10, seed=3, names=["tiny"]) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_wrong_values_end_well():
    assert faults(2000, seed=0) == []


@pytest.mark.filterwarnings("ignore")
def test_a_fault_is_seen(monkeypatch):
    def broken(*_):
        raise TypeError("a bug")

    monkeypatch.setattr("unifluid.cli.flags.check", broken)
    assert try_it(whole("tiny")) == "raised TypeError: a bug"
