"""Short runs of a tiny model under every strategy, in one process or as one of several, for test_scale.py.

`python scale_runs.py FOLDER` as one rank of two makes all runs that need two; FOLDER/one holds that of one process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from toy import make_module, make_trainer

from callbacks.ema import EMA
from callbacks.guards import NonFiniteGuard
from datamodules.mixture import Mixture, Stream
from datamodules.shapes import Shapes
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


def run(
    strategy: str,
    out: Path,
    case: str = "mixed",
    world: int = 1,
    ckpt: Path | None = None,
    muon: bool = False,
    precision: str = "32-true",
) -> dict[str, Any]:
    """Ten steps, or the rest of them -> losses, scores of validation, and a sum over weights and averages."""
    rows, accumulate = CASES[case]
    options = {"optimization": Muon(lr=1e-3, newton_schulz=3)} if muon else {}
    module = make_module(lam=0.3, copies=2, prompt_dropout=0.3, source_dropout=0.3, **options)
    streams = {task: Stream(Shapes(task), n) for task, n in rows.items()}
    validation = {task: Shapes(task, split="val") for task in ("generate", "caption")}
    losses, ema = Losses(), EMA(0.9)
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
        precision=precision,
    )
    trainer.ckpt_path = ckpt
    # two validation batches on rank 0, of which the other has no part in the second: 1 + 2 examples, a row a batch
    data = Mixture(streams, validation, validation_examples=2 if case == "mixed" else 1, validation_batch=1)
    trainer.fit(module, data)
    values = {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
    found = {"losses": losses.steps, "val": values, "updates": ema.updates}
    if trainer.is_global_zero:
        (out / "found.json").write_text(json.dumps(found))
    return found


def main(folder: Path) -> None:
    for strategy in ("ddp", "fsdp2"):
        for case in CASES:
            run(strategy, folder / strategy / case, case, world=2)
    run("fsdp2_file", folder / "fsdp2_file" / "mixed", world=2)
    run("fsdp2", folder / "fsdp2" / "muon", world=2, muon=True)
    run("fsdp2", folder / "fsdp2" / "bf16", world=2, precision="bf16-mixed")
    for source in ("one", "ddp", "fsdp2", "fsdp2_file"):
        for target in ("ddp", "fsdp2"):
            run(target, folder / target / f"from_{source}", world=2, ckpt=folder / source / "mixed" / "saved.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
