"""Quality beside speed of one checkpoint, by sampling setting: GenEval by the analyser, Fréchet distance, ms a picture.

    python -m benchmarks.quality --ckpt runs/demo/last.ckpt --n 50

The reference is the first setting of the table; what the checkpoint's head has no sampler for is left out. Scores are
those of `callbacks.GenEval` on the synthetic prompts of validation, and a Fréchet distance on EfficientNet-Lite0's
features from the same examples' own pictures.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Bench, main
from callbacks.geneval import GenEval
from datamodules.shapes import Shapes
from datamodules.shapes.analyser import ShapesAnalyser
from unifluid import pipeline
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.sampling import check_sampling
from unifluid.evaluation.features import EfficientNetLite0
from unifluid.evaluation.frechet import Normal, frechet_distance
from unifluid.evaluation.geneval import score_images
from unifluid.modules.unifluid import UniFluid
from unifluid.precision import fast_bf16
from unifluid.sequence import Example, centre_square


@dataclass(frozen=True)
class Setting:
    """How to draw: arguments of `ImageSampling`, over those of `BASE`."""

    name: str
    sampling: dict[str, Any] = field(default_factory=dict)


BASE = {"steps": 50, "guidance": 3.0, "schedule": "linear", "temperature": 0.8, "batch_size": 64}  # the demo's own

# To measure another way to draw, add a line.
SETTINGS = (
    Setting("50 steps"),
    Setting("25 steps", {"steps": 25}),
    Setting("10 steps", {"steps": 10}),
    Setting("5 steps", {"steps": 5}),
    Setting("50 → 5 steps", {"late_steps": 5}),
    Setting("25 → 5 steps", {"steps": 25, "late_steps": 5}),
    *(
        Setting(f"{steps} steps, {sampler}", {"steps": steps, "sampler": sampler})
        for steps in (20, 10, 6)
        for sampler in ("ode", "midpoint", "heun")
    ),
    *(Setting(f"{steps} steps, dpm++", {"steps": steps, "sampler": "dpm++"}) for steps in (20, 10, 6)),
    Setting("from all noise", {"start": 1.0}),
    Setting("10 steps, midpoint, time shift 2", {"steps": 10, "sampler": "midpoint", "time_shift": 2.0}),
    Setting("guided in the middle, .2 to .9", {"interval": (0.2, 0.9)}),
    Setting("no guidance", {"guidance": 1.0}),
    Setting("guidance 2", {"guidance": 2.0}),
    Setting("guidance 5", {"guidance": 5.0}),
    Setting("constant guidance 3", {"schedule": "constant"}),
    Setting("candidates 2", {"candidates": 2}),
    Setting("candidates 4", {"candidates": 4}),
    Setting("candidates 8", {"candidates": 8}),
)


def run(bench: Bench) -> None:
    module, n = load(bench), 1 if bench.tiny else bench.options.n
    analyser, features = ShapesAnalyser(), EfficientNetLite0()
    asked = GenEval(Shapes("generate", split="val"), analyser, analyser, n=n)
    asked.prepare(None, module)
    items = [asked.item(i) for i in range(asked.size)]

    def normal(images: list[Tensor] | Tensor) -> Normal:
        return Normal.of(features.extract(images, module.device)[:, : 8 if bench.tiny else None])

    real = normal([centre_square(e.target, module.formatter.target_size) for e in items])
    first = None
    for setting in SETTINGS[:2] if bench.tiny else SETTINGS:
        if first is not None and not (bench.wants(setting.name) and fits(setting, module)):
            continue
        bench.say(f"{setting.name} …")
        images, seconds = draw(module, items, setting, bench.tiny)
        judged = score_images(images, [e.meta for e in items], analyser, analyser, module.device)
        right = [{"tag": e.meta["tag"], "right": is_right} for e, (is_right, _) in zip(items, judged, strict=True)]
        overall = asked.summary(right)["overall"]
        scores = {"geneval_overall": overall.value, "low": overall.low, "high": overall.high}
        scores |= {features.distance: frechet_distance(normal(images), real), "pictures": len(items)}
        first = first or seconds
        bench.add(setting.name, {"ours": [seconds], "reference": [first]}, **scores)
    bench.note("Milliseconds a picture, drawn once; the reference is the first line. low, high: 95 % interval.")


def load(bench: Bench) -> UniFluid:
    """The checkpoint's model. Raises ValueError where none is given."""
    if bench.tiny and not bench.options.ckpt:
        from benchmarks.steps import build

        return build("demo", tiny=True)[0].eval()
    if not bench.options.ckpt:
        raise ValueError("quality is that of a checkpoint: give --ckpt runs/demo/last.ckpt, or another one")
    bench.note(f"Checkpoint {bench.options.ckpt}, {bench.options.n} prompts of each of six kinds.")
    return pipeline.load(bench.options.ckpt).module


def fits(setting: Setting, module: UniFluid) -> bool:
    """Whether the checkpoint's model can be drawn from so."""
    try:
        check_sampling(ImageSampling(**(BASE | setting.sampling)), module.model, module.formatter, setting.name)
    except ValueError:
        return False
    return True


def draw(module: UniFluid, items: list[Example], setting: Setting, tiny: bool) -> tuple[Tensor, float]:
    """Pictures of all items, and the seconds that one took."""
    sampling = ImageSampling(**(BASE | setting.sampling | ({"steps": 2} if tiny else {})))
    kind = module.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=fast_bf16(module.device)):
        start = time.perf_counter()
        images = generate_images(module.model, module.formatter, items, sampling, seed=0)
        return images, (time.perf_counter() - start) / len(items)


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ckpt", metavar="FILE", help="whose model draws")
    parser.add_argument("--n", type=int, default=50, metavar="N", help="prompts of each of GenEval's six kinds (50)")


if __name__ == "__main__":
    main("quality", __doc__, run, flags=flags)
