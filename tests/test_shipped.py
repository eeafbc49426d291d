"""The model that comes with the kit does what its card says: drawn, described, asked about and edited, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import unifluid
from datamodules.images import to_tensor
from datamodules.shapes import Shapes
from datamodules.shapes.analyser import ShapesAnalyser
from unifluid.cli.main import main
from unifluid.evaluation.geneval import score_images
from unifluid.pipeline import Pipeline
from unifluid.sequence import Example

FOLDER = Path(__file__).parents[1] / "experiments/models/shapes"
SCORES = json.loads((FOLDER / "scores.json").read_text(encoding="utf-8"))
N = 64  # three standard errors of a share of as many are .19 at most


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return unifluid.load(FOLDER, device="cpu")


def examples(task: str) -> tuple[Shapes, list[Example]]:
    dataset = Shapes(task, split="val")
    return dataset, [dataset[i] for i in range(N)]


def as_on_the_card(right: list[bool], score: str) -> None:
    share, value = float(np.mean(right)), SCORES[score]
    assert abs(share - value) <= 3 * (max(value * (1 - value), 0.01) / N) ** 0.5, f"{score}: {share}, card {value}"


def test_it_is_judged_by_the_command_on_its_card(tmp_path):
    """That its stored settings are still those of its recipe, whatever has been added to its parts since."""
    recipe = [f"--config={FOLDER.parents[1] / name}.yaml" for name in ("demo", "shapes")]
    short = ["--trainer.limit_val_batches=1", "--trainer.callbacks=callbacks.TrainSeconds", "--trainer.accelerator=cpu"]
    assert main(["validate", *recipe, f"--ckpt_path={FOLDER}", *short, f"--trainer.default_root_dir={tmp_path}"]) == 0


def test_it_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 16e6


def test_pictures(pipeline):
    _, asked = examples("generate")
    drawn = torch.stack([to_tensor(image) for image in pipeline.generate([e.prompt for e in asked])])
    analyser = ShapesAnalyser()
    judged = score_images(drawn, [e.meta for e in asked], analyser, analyser, torch.device("cpu"))
    as_on_the_card([right for right, _ in judged], "geneval/overall")


def test_captions(pipeline):
    dataset, shown = examples("caption")
    texts = pipeline.caption([e.image for e in shown])
    as_on_the_card([dataset.score_text(e, text) for e, text in zip(shown, texts, strict=True)], "captions/exact")


def test_answers(pipeline):
    dataset, shown = examples("answer")
    texts = pipeline.answer([e.image for e in shown], [e.question for e in shown])
    as_on_the_card([dataset.score_text(e, text) for e, text in zip(shown, texts, strict=True)], "qa/accuracy")


def test_edits(pipeline):
    dataset, shown = examples("edit")
    made = pipeline.edit([e.image for e in shown], [e.instruction for e in shown])
    judged = [dataset.score_edit(e, to_tensor(image)) for e, image in zip(shown, made, strict=True)]
    as_on_the_card([right and untouched for right, untouched in judged], "edits/accuracy")
