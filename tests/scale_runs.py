"""Short runs of a tiny model under every strategy, in one process or as one of several, for test_scale.py.

`python scale_runs.py FOLDER STRATEGY/NAME …`, as one rank of two, makes these runs one after the other. A NAME is a
case, or from_SOURCE: the rest of the run FOLDER/SOURCE/apart, from its checkpoint.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import torch
from toy import make_module, make_trainer

from callbacks.ema import EMA
from callbacks.guards import NonFiniteGuard
from datamodules.mixture import Mixture, Stream
from datamodules.shapes import Shapes
from unifluid import optimization
from unifluid.heads import ClassificationHead
from unifluid.optimization import Muon
from unifluid.sequence import TASKS
from unifluid.sharding import FSDP2
from unifluid.storage import AtomicCheckpointIO

STEPS, SAVED = 10, 5
STRATEGIES = {
    "one": lambda: "auto",
    "ddp": lambda: "ddp",
    "fsdp2": lambda: FSDP2(),
    "fsdp2_file": lambda: FSDP2(save_distributed_checkpoint=False),
}
# name: (rows of each stream, accumulated batches); rows go to the ranks in turn
CASES = {
    "mixed": ({task: 2 for task in TASKS}, 1),
    "apart": ({"generate": 1, "caption": 1}, 1),  # one rank draws only, the other describes only
    "accumulated": ({"generate": 2, "caption": 1, "answer": 1}, 2),  # all four batches of a step have one task only
}


class Losses(L.Callback):
    """The loss of every step, over all ranks and accumulated batches."""

    def __init__(self) -> None:
        self.steps: dict[int, float] = {}

    def on_before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: torch.Tensor) -> None:
        value = trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean").item()
        self.steps[trainer.global_step] = self.steps.get(trainer.global_step, 0.0) + value


class SaveAt(L.Callback):
    def __init__(self, step: int, path: Path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path, weights_only=False)


def run(folder: Path, job: str, world: int = 1) -> dict[str, Any]:
    """Ten steps, or the rest of them -> losses of steps and of validation, which are kept in FOLDER/JOB as well."""
    strategy, name = job.split("/")
    source = name.removeprefix("from_")
    ckpt = folder / source / "apart" / "saved.ckpt" if name != source else None
    rows, accumulate = CASES.get(name, CASES["apart" if ckpt else "mixed"])
    options = {"optimization": Muon(lr=1e-3, newton_schulz=3)} if name == "muon" else {}
    options["text_head"] = ClassificationHead(max_logits=80)  # two rows a chunk
    module = make_module(lam=0.3, copies=2, prompt_dropout=0.3, source_dropout=0.3, **options)
    losses, ema, out = Losses(), EMA(0.9), folder / job
    trainer = make_trainer(
        out,
        ema,
        NonFiniteGuard(),
        losses,
        SaveAt(SAVED, out / "saved.ckpt"),
        steps=STEPS,
        devices=world,
        strategy=STRATEGIES[strategy](),
        plugins=[AtomicCheckpointIO()],
        gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate,
        limit_val_batches=None,
        val_check_interval=STEPS * accumulate,
        use_distributed_sampler=False,
        precision="bf16-mixed" if name == "bf16" else "32-true",
    )
    trainer.ckpt_path = ckpt
    streams = {task: Stream(Shapes(task), n) for task, n in rows.items()}
    validation = {"one": Shapes("generate", split="val", length=1), "two": Shapes("caption", split="val", length=2)}
    # Three rows to validate on, one a batch: the second rank has nothing in its second batch.
    data = Mixture(streams, validation, validation_batch=1)
    with mock.patch.object(optimization, "fast_bf16", return_value=False):  # Muon's bf16 would hide what is compared
        trainer.fit(module, data)
    values = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    found = {"losses": losses.steps, "val": values, "updates": ema.updates}
    if trainer.is_global_zero:
        out.mkdir(parents=True, exist_ok=True)
        (out / "found.json").write_text(json.dumps(found))
    return found


if __name__ == "__main__":
    for job in sys.argv[2:]:
        run(Path(sys.argv[1]), job, world=2)
