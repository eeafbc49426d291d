"""Fixed optimizer steps, once at the end, never in the sanity check, and after a resume alike."""

import pytest
from toy import Toy, batches, make_trainer

from callbacks.last import LastCheckpoint
from callbacks.schedule import Scheduled


class Note(Scheduled):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.runs = []

    def run(self, trainer, module, stage):
        self.runs.append((stage, self.step))


@pytest.mark.parametrize(
    "every, at_end, accumulate, expected",
    [
        (2, True, 1, [2, 4, 5]),
        (5, True, 1, [5]),  # due at the last step anyway: once
        (2, False, 1, [2, 4]),
        (None, True, 1, [5]),
        (2, True, 3, [2, 4, 5]),
    ],
)
def test_steps(tmp_path, every, at_end, accumulate, expected):
    note = Note(every, at_end)
    trainer = make_trainer(
        tmp_path, note, steps=5, accumulate_grad_batches=accumulate, num_sanity_val_steps=1, limit_val_batches=1
    )
    trainer.fit(Toy(), batches(), batches())
    assert note.runs == [("fit", step) for step in expected]


def test_resuming_shifts_nothing_and_a_finished_run_does_nothing(tmp_path):
    make_trainer(tmp_path, LastCheckpoint(), steps=3).fit(Toy(), batches())
    note = Note(2)
    make_trainer(tmp_path, note, steps=6).fit(Toy(), batches(), ckpt_path=tmp_path / "last.ckpt")
    assert note.runs == [("fit", 4), ("fit", 6)]
    note = Note(1)
    make_trainer(tmp_path, note, steps=3).fit(Toy(), batches(), ckpt_path=tmp_path / "last.ckpt")
    assert note.runs == []


def test_validate_and_test_on_a_checkpoint_know_its_step(tmp_path):
    make_trainer(tmp_path, LastCheckpoint(), steps=3).fit(Toy(), batches())
    for stage in ("validate", "test"):
        note = Note(2)
        run = getattr(make_trainer(tmp_path, note, limit_val_batches=1, limit_test_batches=1), stage)
        run(Toy(), batches(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
        assert note.runs == [(stage, 3)]


def test_time_is_counted_and_arguments_checked(tmp_path):
    note = Note(1)
    make_trainer(tmp_path, note, steps=2).fit(Toy(), batches())
    assert note.seconds > 0
    with pytest.raises(ValueError, match="every"):
        Note(0)


def test_at_the_start_and_by_epochs(tmp_path):
    note = Note(every_epochs=2, at_start=True, at_end=False)
    make_trainer(tmp_path, note, LastCheckpoint(), steps=10, limit_train_batches=2).fit(Toy(), batches())
    assert note.runs == [("fit", step) for step in (0, 4, 8)]
    note = Note(every=4, every_epochs=1, at_start=True)  # a step that is due twice is run once; a resumed run has begun
    make_trainer(tmp_path, note, steps=14, limit_train_batches=2).fit(
        Toy(), batches(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert note.runs == [("fit", step) for step in (12, 14)]
