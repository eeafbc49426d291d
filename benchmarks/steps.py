"""Training steps outside of Lightning: ours, and the naive one, on the mixtures of the experiments."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.hardware import ROOT
from benchmarks.models import filled
from benchmarks.naive import DenseModel, one_a_row
from datamodules.mixture import MixedRows, Mixture
from unifluid.cli.parts import instantiate
from unifluid.cli.trainer import settings
from unifluid.modules.unifluid import UniFluid
from unifluid.precision import fast_bf16
from unifluid.sequence import TEXT_TASKS, Batch

EXPERIMENTS = ROOT / "experiments"
MIXTURES = {"demo": ["demo"], "shapes": ["demo", "shapes"]}
TINY = {"width": 32, "depth": 1, "heads": 2}


@dataclass
class Side:
    """A module with its optimizer, its data and a batch: ours, or the naive one."""

    module: UniFluid
    optimizer: Optimizer
    batch: Batch
    data: Mixture | None = None

    def losses(self) -> Tensor:
        """Of text and of images (2,), as the module weighs them."""
        losses, batch = self.module.token_losses(self.batch, "train"), self.batch
        text = (losses.text * batch.label_weight).sum() / max(batch.text_rows_in_step, 1)
        return torch.stack([self.module.lam * text, losses.image.mean((1, 2)).sum() / max(batch.image_rows_in_step, 1)])

    def step(self) -> None:
        device = self.batch.text_ids.device
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
            loss = self.losses().sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def mixed() -> bool:
    return fast_bf16(torch.device("cpu"))


@cache
def merged(mixture: str) -> dict[str, Any]:
    """The settings of its files; parsing them takes seconds."""
    return settings([f"--config={EXPERIMENTS / name}.yaml" for name in MIXTURES[mixture]])


def build(mixture: str, tiny: bool) -> tuple[UniFluid, Mixture]:
    """Module and data of an experiment, the tokenizer trained; weights of files are not read."""
    config = copy.deepcopy(merged(mixture))
    torch.manual_seed(0)  # parts that come built draw their weights as they are built
    if tiny:
        config["model"]["init_args"]["backbone"]["init_args"] |= TINY
        for stream in config["data"]["init_args"]["streams"].values():
            stream["rows"] = 2
    data = instantiate(L.LightningDataModule, "data", config["data"])
    module = instantiate(L.LightningModule, "model", config["model"])
    share = 300 if tiny else 2000
    texts = [t for s in data.streams.values() for t, _ in zip(s.dataset.texts(), range(share), strict=False)]
    module.text_tokenizer.train(texts)
    module.configure_model()
    filled(module.model)
    return module.train(), data


def rows_of(data: Mixture) -> list:
    rows = MixedRows(data.streams, data.counts, data.seed)
    return [rows[i] for i in range(rows.rows_per_step)]


def packed(module: UniFluid, data: Mixture) -> Batch:
    rows = rows_of(data)
    text = sum(example.task in TEXT_TASKS for _, example in rows)
    return module.collator(text, len(rows) - text, training=True)(rows)


def side(mixture: str, naive: bool, tiny: bool) -> Side:
    module, data = build(mixture, tiny)
    if naive:
        module.model.__class__ = DenseModel
        segments = [module.formatter.segment(example, row) for row, example in rows_of(data)]
        return Side(
            module, torch.optim.AdamW(module.parameters(), lr=1e-4), one_a_row(segments, module.formatter), data
        )
    optimizer = module.optimization.configure(module.named_parameters(), 1000)["optimizer"]
    return Side(module, optimizer, packed(module, data), data)
