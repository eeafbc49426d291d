"""Saves by time, beside those by steps."""

import lightning as L
import pytest
from toy import Toy, batches, make_trainer

from callbacks.last import LastCheckpoint


class Saves(LastCheckpoint):
    def _save(self, trainer):
        before = self._saved
        super()._save(trainer)
        if self._saved != before:
            self.steps = [*getattr(self, "steps", []), self._saved]


class Clock(L.Callback):
    """Every step takes 50 seconds."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("callbacks.last.time", self)

    def monotonic(self):
        return self.now

    def on_train_batch_start(self, *_):
        self.now += 50


@pytest.mark.parametrize(
    "every, minutes, expected",
    [(100, 2, [3, 6, 7]), (100, None, [7]), (2, 2, [2, 4, 6, 7]), (5, 2, [3, 5, 7])],
)
def test_saved_by_steps_or_by_time(tmp_path, monkeypatch, every, minutes, expected):
    saves = Saves(every, minutes)
    make_trainer(tmp_path, Clock(monkeypatch), saves, steps=7).fit(Toy(), batches())
    assert saves.steps == expected


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_nonsense_is_refused(minutes):
    with pytest.raises(ValueError, match=r"checkpoint\.minutes"):
        LastCheckpoint(minutes=minutes)
