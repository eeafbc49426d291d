"""Counts of streams, and rows that are the same however they are sliced."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from datamodules_shards import captions, shard
from torch.utils.data import DataLoader
from toy import make_module, make_trainer

from datamodules import Mixture, Stream, WebDataset
from datamodules.mixture import MixedRows, StepSampler, share_out, suitable_workers
from datamodules.shapes import Shapes


def streams(**given):
    """name=7 is 7 rows, name="2" a weight of 2."""
    return {n: Stream(None, weight=float(v)) if isinstance(v, str) else Stream(None, v) for n, v in given.items()}


@pytest.mark.parametrize(
    ("given", "rows", "counts"),
    [
        ({"a": 3, "b": 5}, None, {"a": 3, "b": 5}),
        ({"a": 3, "b": 5}, 8, {"a": 3, "b": 5}),
        ({"a": "1", "b": "1"}, 7, {"a": 4, "b": 3}),  # the first wins a tie
        ({"a": "1", "b": "2", "c": "4"}, 10, {"a": 1, "b": 3, "c": 6}),  # exactly 1.43, 2.86, 5.71
        ({"draw": 1024, "caption": "3", "answer": "1"}, 2048, {"draw": 1024, "caption": 768, "answer": 256}),
        ({"a": "0.1", "b": "0.2", "c": "0.7"}, 10, {"a": 1, "b": 2, "c": 7}),
        ({"a": "1", "b": 2, "c": "1e-9"}, 2000, None),
        ({"a": "1", "b": 2}, None, None),
        ({"a": 4, "b": 2}, 7, None),
        ({"a": 4, "b": "1"}, 3, None),
        ({"a": 0}, None, None),
        ({"a": "-1"}, 3, None),
    ],
)
def test_rows_are_shared_out_by_largest_remainder(given, rows, counts):
    if counts is None:
        with pytest.raises(ValueError, match=r"data\.(rows|streams)"):
            share_out(streams(**given), rows)
    else:
        assert share_out(streams(**given), rows) == counts
        assert list(share_out(streams(**given), rows)) == list(given)


def test_shares_are_within_a_row_of_their_exact_size():
    generator = torch.Generator().manual_seed(0)
    for rows in range(40, 90):
        weights = torch.rand(5, generator=generator).add(0.2).tolist()
        counts = share_out({str(i): Stream(None, weight=w) for i, w in enumerate(weights)}, rows)
        assert sum(counts.values()) == rows
        assert all(abs(counts[str(i)] - rows * w / sum(weights)) < 1 for i, w in enumerate(weights))


def test_a_stream_has_rows_or_a_weight():
    for stream in (Stream(None), Stream(None, rows=1, weight=1.0)):
        with pytest.raises(ValueError, match="data.streams.a needs either rows or weight"):
            share_out({"a": stream}, 4)


def drawn(counts, steps=3):
    """Ids of the stream that draws, step by step."""
    sets = {"generate": Shapes("generate"), "caption": Shapes("caption"), "answer": Shapes("answer")}
    rows = MixedRows({name: Stream(sets[name], n) for name, n in counts.items()}, counts, seed=5)
    every = [rows[i][1] for i in range(steps * sum(counts.values()))]
    return [e.id for e in every if e.task == "generate"]


def test_a_single_task_run_draws_what_the_unified_run_draws():
    """The same visual tokens per step, from the same pictures."""
    unified = share_out(streams(generate=4, caption="2", answer="1"), 10)
    assert drawn(unified) == drawn({"generate": 4}) and len(drawn(unified)) == 12


def shards(tmp_path):
    for number in range(3):
        members = captions(*range(number * 10, number * 10 + 7))
        members[2] = (members[2][0], b"no picture")
        shard(tmp_path / f"{number}.tar", *members)
    fields = {"image": "png", "caption": "txt"}
    return WebDataset(f"{tmp_path}/{{0..2}}.tar", "caption", fields=fields, max_skipped=0.2)


def rows_of_steps(tmp_path, world, accumulate, workers, steps=4):
    """Every rank's rows, gathered by step: (global row, id, text)."""
    found = Counter()
    for rank in range(world):
        counts = {"shards": 5, "shapes": 3}
        data = MixedRows(
            {"shards": Stream(shards(tmp_path), 5), "shapes": Stream(Shapes("caption"), 3)}, counts, seed=1
        )
        sampler = StepSampler(8, steps, accumulate, rank, world, lambda: 0)
        loader = DataLoader(
            data,
            batch_sampler=sampler,
            num_workers=workers,
            collate_fn=lambda rows: [(r, e.id, e.caption) for r, e in rows],
        )
        found.update(row for batch in loader for row in batch)
    return found


def test_rows_are_the_same_whatever_ranks_accumulation_and_workers(tmp_path):
    """With bad pictures among them, which every process finds by itself."""
    alone = rows_of_steps(tmp_path, 1, 1, 0)
    assert sorted(row for row, *_ in alone) == list(range(32)) and set(alone.values()) == {1}
    for world, accumulate, workers in ((2, 1, 0), (1, 2, 1), (2, 2, 1), (4, 1, 0), (1, 1, 2)):
        assert rows_of_steps(tmp_path, world, accumulate, workers) == alone


def test_weights_reach_the_batches(tmp_path):
    sets = {"generate": Stream(Shapes("generate"), rows=2)}
    sets |= {task: Stream(Shapes(task), weight=w) for task, w in (("caption", 1.0), ("answer", 2.0))}
    data, module = Mixture(sets, rows=8), make_module()
    trainer = make_trainer(tmp_path, steps=1)
    trainer.fit(module, data)
    batch = next(iter(data.train_dataloader()))
    assert Counter(batch.text_tasks + batch.target_tasks) == {"generate": 2, "caption": 2, "answer": 4}
    assert (batch.text_rows_in_step, batch.image_rows_in_step) == (6, 2)


@pytest.mark.parametrize("device, found", [("cpu", 0), ("cuda", 5)])
def test_workers_are_what_suits_the_machine(device, found, monkeypatch):
    """On CPUs training needs the cores; GPUs share them."""
    monkeypatch.setattr("lightning.fabric.utilities.data._num_cpus_available", lambda: 12)
    trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(device)), num_devices=2)
    assert suitable_workers(trainer) == found
    trainer.num_devices = 1
    assert suitable_workers(trainer) == (8 if found else 0)


def test_workers_below_none_are_refused():
    with pytest.raises(ValueError, match="data.workers must be at least 0"):
        Mixture({"caption": Stream(Shapes("caption"), rows=1)}, workers=-1)


@pytest.mark.parametrize("name", ["steps_per_epoch", "validation_batch"])
def test_epochs_and_batches_of_nothing_are_refused(name):
    with pytest.raises(ValueError, match="data.steps_per_epoch and data.validation_batch must be at least 1"):
        Mixture({"caption": Stream(Shapes("caption"), rows=1)}, **{name: 0})


def test_numbers_too_large_to_count_are_refused():
    with pytest.raises(ValueError, match="data.streams.caption: rows is more than can be counted"):
        Mixture({"caption": Stream(Shapes("caption"), rows=10**30)})
    with pytest.raises(ValueError, match="length must be at least 1, and a number that can be counted to"):
        Shapes("caption", length=10**30)
