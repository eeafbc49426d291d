"""Two ranks find what one finds, and skip a step together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
import lightning as L, torch
from toy import make_data, make_module
from callbacks.ema import EMA
from callbacks.guards import NonFiniteGuard
from callbacks.throughput import Throughput
from callbacks.understanding import CaptionAccuracy, QuestionAccuracy
from datamodules.shapes import Shapes
from unifluid.decoding import TextSampling

world, out = int(sys.argv[1]), sys.argv[2]
answers = Shapes("answer", split="val")

class Scripted(QuestionAccuracy):  # right where the index is a multiple of three
    def judge(self, module, items, indices, progress):
        super().judge(module, items, indices, progress)
        return [i % 3 == 0 for i in indices]

class Poison(L.Callback):  # an infinite loss on the last rank alone
    def on_before_backward(self, trainer, module, loss):
        if trainer.global_step == 1 and trainer.global_rank == world - 1:
            guard._losses.append(torch.tensor(float("inf")))

guard = NonFiniteGuard()
scripted = Scripted(answers, n=19, sampling=TextSampling(max_tokens=2))
one = CaptionAccuracy(Shapes("caption"), n=1)  # fewer examples than ranks
trainer = L.Trainer(
    accelerator="cpu", devices=world, strategy="ddp_find_unused_parameters_true" if world > 1 else "auto", max_steps=3,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    default_root_dir=out, num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False,
    callbacks=[EMA(0.5), Poison(), guard, Throughput(2), scripted, one],
)
module = make_module()
trainer.fit(module, make_data())
total = sum(p.double().sum().item() for p in module.parameters())
open(f"{out}/rank{trainer.global_rank}.json", "w").write(f"[{guard.skipped}, {total}]")
"""


@pytest.mark.slow
def test_two_ranks_are_as_one(tmp_path):
    found = {}
    (tmp_path / "script.py").write_text(SCRIPT)
    path = ":".join(str(p) for p in (Path(__file__).parents[1], Path(__file__).parents[2]))
    for world in (1, 2):
        out = tmp_path / str(world)
        out.mkdir()
        command = [sys.executable, str(tmp_path / "script.py"), str(world), str(out)]
        subprocess.run(command, check=True, env={"PYTHONPATH": path, "PATH": "", "OMP_NUM_THREADS": "1"}, timeout=500)
        ranks = [json.loads((out / f"rank{r}.json").read_text()) for r in range(world)]
        assert all(rank == ranks[0] for rank in ranks) and ranks[0][0] == 1
        found[world] = json.loads((out / "scores.json").read_text()), ranks[0][1]
    assert found[1][0] == found[2][0] and found[1][0]["qa/accuracy"] == 7 / 19
    assert found[1][0]["n/captions/exact"] == 1
    assert found[1][1] == pytest.approx(found[2][1], rel=1e-5)
