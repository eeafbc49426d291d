"""A module and a trainer small enough to test callbacks with."""

import functools

import lightning as L
import tiny
import torch
from torch import nn
from torch.utils.data import DataLoader

from datamodules.mixture import Mixture, Stream
from datamodules.shapes import Shapes
from unifluid.backbones import Decoder
from unifluid.heads.classification import ClassificationHead
from unifluid.heads.flow_mlp import FlowMLP
from unifluid.modules.unifluid import UniFluid
from unifluid.optimization import AdamW
from unifluid.sequence import TASKS


class Toy(L.LightningModule):
    """Trained matrices (one tied under a second name), a frozen part and an integer buffer."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 4, dtype=dtype)
        self.tied = nn.Linear(4, 4, bias=False, dtype=dtype)
        self.tied.weight = self.net.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("count", torch.tensor(3))

    def training_step(self, batch, batch_idx):
        return (self.net(batch.to(self.net.weight.dtype)) - 1).square().mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/weight", self.net.weight.float().mean())

    def test_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def batches(n=32):
    """Equal batches: where a resumed loader stands is not what these tests are about."""
    return DataLoader(torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).repeat(n, 1), batch_size=2)


def make_trainer(tmp_path, *callbacks, steps=6, **options):
    """Checkpoints, logs, bars and validation only where `options` or `callbacks` ask for them."""
    defaults = {
        "logger": False,
        "enable_checkpointing": any(isinstance(c, L.pytorch.callbacks.Checkpoint) for c in callbacks),
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "enable_progress_bar": any(isinstance(c, L.pytorch.callbacks.ProgressBar) for c in callbacks),
        "enable_model_summary": any(isinstance(c, L.pytorch.callbacks.ModelSummary) for c in callbacks),
    }
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        **{**defaults, **options},
    )


def make_module(**options):
    """The whole model from tiny parts, every time the same."""
    torch.manual_seed(0)
    parts = {
        "backbone": functools.partial(Decoder, **tiny.BACKBONE),
        "text_tokenizer": tiny.Letters(),
        "image_tokenizer": tiny.Pixels(),
        "image_encoder": tiny.Patches(),
        "image_head": functools.partial(FlowMLP, **tiny.HEAD),
        "text_head": ClassificationHead(),
        "optimization": AdamW(lr=1e-3),
    }
    return UniFluid(**(parts | options))


def make_data(**options):
    """Every task of the synthetic shapes, two rows of each in a step."""
    streams = {task: Stream(Shapes(task), rows=2) for task in TASKS}
    return Mixture(streams, {"generate": Shapes("generate", split="val")}, validation_examples=4, **options)


def replace_drawing(monkeypatch, callback, picture):
    """In the module `callback` of evaluations, `picture(i, example)` is drawn for image i, in place of the model's
    drawing; gives the calls."""
    calls = []

    def generate_images(model, formatter, examples, sampling, seed, indices, progress):
        calls.append((examples, sampling, seed, indices))
        return torch.stack([picture(i, example) for i, example in zip(indices, examples, strict=True)])

    monkeypatch.setattr(callback, "generate_images", generate_images)
    return calls
