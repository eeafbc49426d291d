"""Counts by stream and reason at the end of an epoch, over all ranks."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from datamodules_shards import bad_streams
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import make_module, make_trainer

from callbacks import SkippedRows
from datamodules import Mixture

WANTED = {
    "data/skipped/shards": 4,
    "data/skipped/shards/refused member": 1,
    "data/skipped/shards/not an image": 1,
    "data/skipped/shards/no caption": 1,
    "data/skipped/shards/too many pixels": 1,
    "data/skipped/folder": 2,
    "data/skipped/folder/malformed JSON": 1,
    "data/skipped/folder/missing file": 1,
}


def test_counts_at_the_end_of_an_epoch_in_the_log_and_in_tensorboard(tmp_path, caplog):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    data = Mixture(bad_streams(tmp_path), steps_per_epoch=5)
    with caplog.at_level(logging.INFO):
        make_trainer(tmp_path, SkippedRows(), steps=8, logger=logger).fit(make_module(), data)
    events = EventAccumulator(str(next(tmp_path.glob("events.*"))))
    events.Reload()
    found = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"] if "data/" in tag
    }
    assert {tag: values[-1] for tag, values in found.items()} == {tag: (8, n) for tag, n in WANTED.items()}
    assert [step for step, _ in found["data/skipped/folder"]] == [5, 8]
    assert "folder: 2 of 11 rows skipped (malformed JSON: 1, missing file: 1)" in caplog.text


def test_other_data_is_named(tmp_path):
    from toy import Toy, batches

    with pytest.raises(ValueError, match="SkippedRows needs the streams of datamodules.Mixture"):
        make_trainer(tmp_path, SkippedRows(), steps=1, max_epochs=1, limit_train_batches=1).fit(Toy(), batches(2))


SCRIPT = """
import json, sys
from pathlib import Path
from toy import make_module, make_trainer
from callbacks import SkippedRows
from datamodules_shards import bad_streams
from datamodules import Mixture

world, out = int(sys.argv[1]), Path(sys.argv[2])
data = Mixture(bad_streams(out / sys.argv[3]), steps_per_epoch=10)
trainer = make_trainer(out, SkippedRows(), steps=10, devices=world, use_distributed_sampler=False,
                       strategy="ddp_find_unused_parameters_true" if world > 1 else "auto")
module = make_module()
trainer.fit(module, data)
counts = {name: dict(s.dataset.skipped) for name, s in data.streams.items()}
weights = sum(p.double().abs().sum().item() for p in module.parameters())
(out / f"{world}-{trainer.global_rank}.json").write_text(json.dumps([counts, weights]))
"""


@pytest.mark.slow
def test_two_ranks_train_on_the_same_rows_and_count_each_bad_one_once(tmp_path):
    path = ":".join(str(p) for p in (Path(__file__).parents[1], Path(__file__).parents[2]))
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "data").mkdir()
    for world in (1, 2):
        command = [sys.executable, str(tmp_path / "script.py"), str(world), str(tmp_path), "data"]
        subprocess.run(command, check=True, env={"PYTHONPATH": path, "PATH": "", "OMP_NUM_THREADS": "1"}, timeout=500)
    (one, weights), *two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("1-0", "2-0", "2-1"))
    assert one["folder"] == {"malformed JSON": 1, "missing file": 1}
    assert [counts for counts, _ in two] == [one, one]
    assert [total for _, total in two] == pytest.approx([weights] * 2, rel=1e-6)
