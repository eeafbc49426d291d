"""Two ranks find what one finds, and skip a step together, also where the model is spread over them."""

import json

import pytest
from ranks import launch

SCRIPT = """
import sys
import lightning as L, torch
from toy import make_data, make_module
from callbacks.ema import EMA
from callbacks.guards import NonFiniteGuard
from callbacks.throughput import Throughput
from callbacks.understanding import CaptionAccuracy, QuestionAccuracy
from datamodules.shapes import Shapes
from callbacks.samples import SampleGrid
from unifluid.decoding import TextSampling
from unifluid.sharding import FSDP2
from unifluid.shards import whole

world, strategy, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
answers = Shapes("answer", split="val")

class Scripted(QuestionAccuracy):  # right where the index is a multiple of three
    def judge(self, module, items, indices, progress):
        outcomes = super().judge(module, items, indices, progress)
        return [{**outcome, "right": i % 3 == 0} for i, outcome in zip(indices, outcomes)]

class Poison(L.Callback):  # an infinite loss on the last rank alone
    def on_before_backward(self, trainer, module, loss):
        if trainer.global_step == 1 and trainer.global_rank == world - 1:
            guard._losses.append(torch.tensor(float("inf")))

guard = NonFiniteGuard()
scripted = Scripted(answers, n=19, sampling=TextSampling(max_tokens=2, batch_size=4))
one = CaptionAccuracy(Shapes("caption"), n=1)  # fewer examples than ranks
trainer = L.Trainer(
    accelerator="cpu", devices=world, strategy=FSDP2() if strategy == "fsdp2" else strategy, max_steps=3,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    default_root_dir=out, num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False,
    callbacks=[EMA(0.5), Poison(), guard, Throughput(2), scripted, one, SampleGrid([answers], n=1, minutes=[1e-6])],
)
module = make_module()
trainer.fit(module, make_data())
total = sum(whole(p.detach()).double().sum().item() for p in module.parameters())
open(f"{out}/rank{trainer.global_rank}.json", "w").write(f"[{guard.skipped}, {total}]")
"""


@pytest.mark.slow
def test_two_ranks_are_as_one(tmp_path):
    found = {}
    (tmp_path / "script.py").write_text(SCRIPT)
    for world, strategy in ((1, "auto"), (2, "ddp"), (2, "fsdp2")):
        out = tmp_path / strategy
        out.mkdir()
        launch(tmp_path / "script.py", world, strategy, out, world=world)
        ranks = [json.loads((out / f"rank{r}.json").read_text()) for r in range(world)]
        assert all(rank == ranks[0] for rank in ranks) and ranks[0][0] == 1
        assert (out / "samples.png").exists()
        scores = json.loads((out / "scores.json").read_text())
        found[strategy] = {name: x for name, x in scores.items() if not name.startswith("seconds/")}, ranks[0][1]
    scores, total = found["auto"]
    assert scores["qa/accuracy"] == 7 / 19 and scores["n/captions/exact"] == 1
    for strategy in ("ddp", "fsdp2"):
        assert found[strategy][0] == scores
        assert found[strategy][1] == pytest.approx(total, rel=1e-5)


DISTANCE = """
import sys
import lightning as L, torch
from toy import make_data, make_module
from callbacks.ema import EMA
from callbacks.fid import FID
from callbacks.geneval import GenEval
from datamodules.shapes import Shapes
from datamodules.shapes.analyser import ShapesAnalyser
from unifluid.decoding import ImageSampling
from unifluid.interfaces import FeatureExtractor

world, out = int(sys.argv[1]), sys.argv[2]
prompts = Shapes("generate", split="val")

class Pixels(FeatureExtractor):
    name = "pixels"

    def load(self):
        pass

    def extract(self, images, device):
        return torch.stack(list(images)).flatten(1)[:, ::7].float()

judge, sampling = ShapesAnalyser(), ImageSampling(steps=2, temperature=1.0, batch_size=4)
options = {"sampling": sampling, "keep": out + "/kept", "n": 3, "tags": ("colors",), "images_per_prompt": 3}
trainer = L.Trainer(
    accelerator="cpu", devices=world, strategy="ddp" if world > 1 else "auto", max_steps=1,
    logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    default_root_dir=out, num_sanity_val_steps=0, limit_val_batches=0, use_distributed_sampler=False,
    callbacks=[
        EMA(0.5),
        FID(prompts, Pixels(), n=17, sampling=sampling, weights="both"),
        GenEval(prompts, judge, judge, **options),
    ],
)
trainer.fit(make_module(), make_data())
"""


@pytest.mark.slow
def test_distances_and_images_are_the_same_on_one_two_and_three_ranks(tmp_path):
    (tmp_path / "script.py").write_text(DISTANCE)
    found = {}
    for world in (1, 2, 3):
        out = tmp_path / str(world)
        out.mkdir()
        launch(tmp_path / "script.py", world, out, world=world)
        images = {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / "kept").rglob("*.png"))}
        found[world] = json.loads((out / "scores.json").read_text())["images/frechet/pixels"], images
    assert len(found[1][1]) == 9 and found[1][0] > 0
    for world in (2, 3):
        assert found[world][0] == pytest.approx(found[1][0], rel=1e-9)
        assert found[world][1] == found[1][1]
