"""SmolLM2's real weights, where `unifluid weights smollm2` has put them."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import lightning as L
import pytest
from toy import make_module, make_trainer

from datamodules import Mixture, Stream
from datamodules.shapes import Shapes
from unifluid.backbones import HuggingFaceBackbone
from unifluid.optimization import AdamW
from unifluid.tokenizers import HuggingFaceTokenizer

FOLDER = Path(__file__).parents[2] / "models" / "smollm2-135m"
STEPS = 5


class Losses(L.Callback):
    def __init__(self):
        self.text: list[float] = []

    def on_train_batch_end(self, trainer, *_):
        self.text.append(trainer.callback_metrics["train/text"].item())


def text_losses(folder: Path, **source) -> list[float]:
    """Of each step of a short run that describes pictures."""
    module = make_module(
        backbone=functools.partial(HuggingFaceBackbone, **source),
        text_tokenizer=HuggingFaceTokenizer(str(FOLDER), pad="<|endoftext|>"),
        optimization=AdamW(lr=1e-3, rates={"^backbone": 0.1}),
        row_length=128,
        lam=1.0,
    )
    losses = Losses()
    data = Mixture({"caption": Stream(Shapes("caption"), rows=8)})
    make_trainer(folder, losses, steps=STEPS).fit(module, data)
    return losses.text


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="models/smollm2-135m is not there: unifluid weights smollm2")
def test_what_it_has_read_is_of_use(tmp_path):
    """Pictures' descriptions cost less from the first step than with random weights, and soon half of that."""
    pretrained = text_losses(tmp_path, pretrained=str(FOLDER))
    random = text_losses(tmp_path, config=json.loads((FOLDER / "config.json").read_text()))
    assert len(pretrained) == len(random) == STEPS
    assert pretrained[-1] < 0.5 * pretrained[0]
    assert all(ours < theirs for ours, theirs in zip(pretrained, random, strict=True))
