"""Rates against independent counts; the clock stands still in evaluation; time adds up over resumes."""

import json
import time

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from toy import Toy, batches, make_data, make_module, make_trainer

from callbacks.last import LastCheckpoint
from callbacks.schedule import Scheduled
from callbacks.throughput import Throughput, TrainSeconds


class Sleep(Scheduled):
    def run(self, trainer, module, stage):
        time.sleep(0.6)


class Memory(CSVLogger):
    """Keeps what is logged, by step."""

    def __init__(self, folder):
        super().__init__(folder)
        self.seen = {}

    def log_metrics(self, metrics, step=None):
        self.seen.setdefault(step, {}).update(metrics)


class Witness(L.Callback):
    """Counts positions from the layout and times whole steps; makes data and steps slow."""

    def __init__(self):
        self.real, self.all, self.norms, self.images, self.ends = [], [], [], [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        time.sleep(0.05)
        self.real.append((batch.layout.segments > 0).sum().item())
        self.all.append(batch.layout.segments.numel())
        self.images.append(len(batch.targets) + len(batch.images))

    def on_before_optimizer_step(self, trainer, module, optimizer):
        squares = [p.grad.double().square().sum() for p in module.parameters() if p.grad is not None]
        self.norms.append(sum(squares).sqrt().item())

    def on_train_batch_end(self, *_):
        self.ends.append(time.monotonic())


def test_rates_and_norms(tmp_path):
    logger, witness, throughput = Memory(tmp_path), Witness(), Throughput(every=3)
    make_trainer(
        tmp_path, throughput, Sleep(2), witness, steps=6, logger=logger, gradient_clip_val=1e-3, log_every_n_steps=99
    ).fit(make_module(), make_data())
    assert [step for step, values in logger.seen.items() if "throughput/tokens" in values] == [3, 6]
    values = logger.seen[6]
    seconds = 3 * values["throughput/step_seconds"]
    # Between the ends of steps 3 and 6 the witness, who comes last, saw two evaluations.
    assert 0.15 < seconds < witness.ends[5] - witness.ends[2] - 1.5 * 0.6
    assert values["throughput/tokens"] * seconds == pytest.approx(sum(witness.real[3:]))
    assert values["throughput/images"] * seconds == pytest.approx(sum(witness.images[3:]))
    both = values["throughput/text_tokens"] + values["throughput/image_tokens"]
    assert both == pytest.approx(values["throughput/tokens"])
    assert values["throughput/padding"] == pytest.approx(1 - sum(witness.real[3:]) / sum(witness.all[3:]))
    assert 0 < values["throughput/data_wait"] < 1 and values["throughput/memory_gib"] > 0.1
    assert [logger.seen[s]["train/gradient_norm"] for s in (3, 6)] == pytest.approx([witness.norms[i] for i in (2, 5)])
    assert witness.norms[2] > 1e-2  # clipping comes after


@pytest.mark.parametrize("slow", ["data", "step"])
def test_waiting_is_told_from_working(tmp_path, slow):
    logger, module, data = Memory(tmp_path), make_module(), make_data()
    collate, step = module.collator, module.training_step
    if slow == "data":
        module.collator = lambda *a, **k: lambda rows: time.sleep(0.2) or collate(*a, **k)(rows)
    else:
        module.training_step = lambda *a: time.sleep(0.2) or step(*a)
    make_trainer(tmp_path, Throughput(4), steps=4, logger=logger, log_every_n_steps=99).fit(module, data)
    total = 4 * logger.seen[4]["throughput/step_seconds"]
    waited = logger.seen[4]["throughput/data_wait"] * total
    assert waited > 0.8 if slow == "data" else waited < 0.8 < total - waited


def test_training_time_adds_up_over_resumes(tmp_path):
    first, second = TrainSeconds(), TrainSeconds()
    make_trainer(tmp_path, first, Sleep(1), LastCheckpoint(), steps=3).fit(Toy(), batches())
    assert 0 < first.seconds < 0.9  # without the evaluations: two of 0.6 s between its steps
    first_part = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["TrainSeconds"]["seconds"]
    assert first_part == first.seconds
    make_trainer(tmp_path, second, steps=6).fit(Toy(), batches(), ckpt_path=tmp_path / "last.ckpt")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert second.seconds > first.seconds and scores["train/seconds"] == round(second.seconds, 1)
