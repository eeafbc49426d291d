"""What training logs: losses of the whole optimizer step however it is cut, and each learning rate once."""

from __future__ import annotations

import csv
from pathlib import Path

import lightning as L
import pytest
import torch
from cards import Cards
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from toy import make_data, make_module, make_trainer

from unifluid.encoders import Patches
from unifluid.modules.autoencoder import AutoencoderModule
from unifluid.modules.contrastive import ContrastiveModule, Pairs
from unifluid.optimization import AdamW, Muon
from unifluid.tokenizers import SmallKL

PICTURES = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def logged(folder: Path, module: L.LightningModule, data: DataLoader, **options) -> list[dict[str, float]]:
    """A row for each logged step."""
    logger = CSVLogger(folder, name="", version="")
    make_trainer(folder, logger=logger, log_every_n_steps=1, **options).fit(module, data)
    with (folder / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def autoencoder() -> AutoencoderModule:
    torch.manual_seed(0)
    return AutoencoderModule(SmallKL(channels=16, encoder_depth=1, decoder_depth=1), AdamW())


def test_an_autoencoder_logs_the_whole_step(tmp_path, monkeypatch):
    def nothing(module, draw, image, shape, *key):  # draws differ from batch to batch
        return torch.zeros(len(image), *shape)

    monkeypatch.setattr(AutoencoderModule, "_drawn", nothing)
    whole, thirds = (
        logged(tmp_path / str(n), autoencoder(), DataLoader(PICTURES, 12 // n), steps=1, accumulate_grad_batches=n)[0]
        for n in (1, 3)
    )
    assert {"train/psnr", "train/kl"} <= set(whole)
    assert thirds == pytest.approx(whole, rel=1e-4)


def test_a_contrastive_encoder_logs_the_mean_of_its_batches(tmp_path):
    def make() -> ContrastiveModule:
        torch.manual_seed(0)
        return ContrastiveModule(Patches(8, 4, 16, depth=1, heads=2), AdamW())

    edits = Cards("edit", copies=1)
    batches = [Pairs(8)([(i, edits[i]) for i in rows]) for rows in (range(4), range(4, 8))]
    seen, contrast = [], ContrastiveModule.contrast

    class Watched(ContrastiveModule):
        def contrast(self, pairs):
            seen.append(contrast(self, pairs))
            return seen[-1]

    module = make()
    module.__class__ = Watched
    (row,) = logged(tmp_path, module, DataLoader(batches, batch_size=None), steps=1, accumulate_grad_batches=2)
    assert len(seen) == 2
    for name, values in zip(("train/contrast", "train/found"), zip(*seen, strict=True), strict=True):
        assert row[name] == pytest.approx(torch.stack(values).mean().item(), rel=1e-5)


def test_each_learning_rate_is_logged_once(tmp_path):
    settings = {"warmup": 2, "rates": {"backbone": 0.1}}
    rows = logged(tmp_path / "adamw", make_module(optimization=AdamW(lr=1e-3, **settings)), make_data(), steps=3)
    rates = [{name: value for name, value in row.items() if name.startswith("lr/")} for row in rows]
    assert rates == [
        pytest.approx({"lr/adamw": 1e-3 * factor, "lr/adamw_x0.1": 1e-4 * factor}) for factor in (0.5, 1, 1)
    ]
    optimization = Muon(lr=1e-3, muon_lr=4e-3, schedule="linear")
    rows = logged(tmp_path / "muon", make_module(optimization=optimization), make_data(), steps=2)
    assert [(row["lr/muon"], row["lr/adamw"]) for row in rows] == [
        pytest.approx((4e-3, 1e-3)),
        pytest.approx((2e-3, 5e-4)),
    ]
    assert sum(name.startswith("lr/") for name in rows[0]) == 2
