"""Training the image tokenizer: it learns, its checkpoint feeds SmallKL, and its losses are what they say."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from datamodules.mixture import Mixture, Stream
from datamodules.shapes import Shapes
from unifluid import checkpoints
from unifluid.modules.autoencoder import AutoencoderModule, Pictures, kl_divergence, pictures, psnr
from unifluid.optimization import AdamW, Muon
from unifluid.packing import pack
from unifluid.sequence import Example, Formatter
from unifluid.tokenizers import SmallKL

SMALL = {"channels": 16, "encoder_depth": 1, "decoder_depth": 1}


def module(**changes) -> AutoencoderModule:
    torch.manual_seed(0)
    arguments = {"tokenizer": SmallKL(**SMALL), "optimization": Muon(1e-3, 4e-3, matrices="tokenizer")}
    return AutoencoderModule(**(arguments | changes))


def trainer(folder, steps: int, **changes) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(
        max_steps=steps, default_root_dir=folder, enable_model_summary=False, num_sanity_val_steps=0, **quiet | changes
    )


def scenes(rows: int = 16, **changes) -> Mixture:
    streams = {"draw": Stream(Shapes("generate"), rows), "edit": Stream(Shapes("edit"), 2)}
    return Mixture(streams, {"val": Shapes("generate", split="val")}, validation_examples=16, **changes)


def test_it_learns_scenes_and_its_checkpoint_feeds_a_tokenizer(tmp_path):
    """Through the kit's own data module, in mixed precision as the YAML trains it."""
    trained = module()
    run = trainer(tmp_path, 60, precision="bf16-mixed")
    run.validate(trained, scenes(), verbose=False)
    before = run.callback_metrics["val/psnr"]
    run.fit(trained, scenes(steps_per_epoch=60))
    assert run.callback_metrics["val/psnr"] > before + 4
    run.save_checkpoint(tmp_path / "trained.ckpt")
    loaded = SmallKL(**SMALL, weights=str(tmp_path / "trained.ckpt"))
    loaded.load_pretrained()
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(loaded.encode(image), trained.tokenizer.encode(image))
    assert torch.equal(loaded.latent_variance, trained.tokenizer.latent_variance)
    rebuilt = checkpoints.read(tmp_path / "trained.ckpt").build()
    assert isinstance(rebuilt, AutoencoderModule)
    assert torch.equal(rebuilt.tokenizer.encode(image), loaded.encode(image))


def test_errors_are_of_the_size_given_drawn_for_each_picture(tmp_path, monkeypatch):
    seen, forward = [], SmallKL.forward

    def spy(self, image, noise, errors):
        seen.append(errors)
        return forward(self, image, noise, errors)

    monkeypatch.setattr(SmallKL, "forward", spy)
    images = torch.rand(64, 3, 32, 32)
    for size in (0.0, 0.5):
        trainer(tmp_path, 2).fit(module(errors=size), DataLoader(images, 32))
    assert not torch.cat(seen[:2]).any()
    assert not torch.equal(seen[2], seen[3])
    sizes = torch.cat(seen[2:]).std((1, 2))
    assert 0 < sizes.min() < 0.1 and 0.4 < sizes.max() < 0.6, "uniform in [0, 0.5]"


def test_the_same_seed_gives_the_same_weights(tmp_path):
    """Whatever the global generator was left at: noise is a function of (seed, step)."""
    weights = []
    for disturbance in (0, 1):
        run, trained = trainer(tmp_path, 3), module()
        torch.manual_seed(disturbance)
        run.fit(trained, DataLoader(torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 4))
        weights.append(trained.tokenizer.state_dict())
    assert all(torch.equal(t, weights[1][name]) for name, t in weights[0].items())


def test_going_on_with_another_model_is_refused(tmp_path):
    run, images = trainer(tmp_path, 1), torch.rand(4, 3, 32, 32)
    run.fit(module(), DataLoader(images, 4))
    run.save_checkpoint(tmp_path / "first.ckpt")
    with pytest.raises(ValueError, match="kl_weight"):
        trainer(tmp_path, 2).fit(module(kl_weight=0.5), DataLoader(images, 4), ckpt_path=tmp_path / "first.ckpt")


def test_a_fresh_run_starts_from_the_weights_it_names(tmp_path):
    torch.save({"state_dict": (source := SmallKL(**SMALL)).state_dict()}, tmp_path / "start.ckpt")
    tokenizer = SmallKL(**SMALL, weights=str(tmp_path / "start.ckpt"))
    started = module(tokenizer=tokenizer, optimization=AdamW(0.0))
    trainer(tmp_path, 1).fit(started, DataLoader(torch.rand(4, 3, 32, 32), 4))
    assert torch.equal(tokenizer.encoder[1].weight, source.encoder[1].weight)


def test_a_cosine_schedule_needs_its_length(tmp_path):
    with pytest.raises(ValueError, match="max_steps"):
        trainer(tmp_path, -1, max_epochs=1).fit(
            module(optimization=AdamW(schedule="cosine")), DataLoader(torch.rand(4, 3, 32, 32), 4)
        )


def test_kl_divergence_equals_torch():
    moments = torch.randn(3, 8, 4, 4)
    mean, log_variance = moments.chunk(2, 1)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (log_variance / 2).exp()), normal(0.0, 1.0)).mean()
    assert torch.allclose(kl_divergence(moments), expected, rtol=1e-5)


def test_psnr_is_that_of_pictures_in_0_255():
    image = torch.randint(0, 256, (2, 3, 8, 8)).double()
    other = torch.randint(0, 256, (2, 3, 8, 8)).double()
    expected = sum(10 * math.log10(255**2 / (a - b).square().mean()) for a, b in zip(image, other, strict=True)) / 2
    unit, other_unit = image / 127.5 - 1, other / 127.5 - 1
    assert psnr((unit - other_unit).square().mean((1, 2, 3))).mean().item() == pytest.approx(expected)


def test_every_picture_of_an_example_is_learned_from():
    black, white = torch.zeros(3, 32, 32, dtype=torch.uint8), torch.full((3, 16, 16), 255, dtype=torch.uint8)
    edit = Example("a", "edit", image=black, target=white, instruction="make it white")
    pair = Example("b", "answer", image=(white, black), question="same?", answers=("no",))
    batch = Pictures(32)([(0, edit), (1, pair)])
    assert batch.shape == (4, 3, 32, 32)
    assert batch.mean((1, 2, 3)).tolist() == [-1, 1, 1, -1]


def test_of_a_packed_batch_the_targets_are_taken():
    import tiny

    formatter = Formatter(tiny.tokenizer(), 32, 16, 32, 16)
    example = Shapes("edit")[0]
    batch = pack([formatter.segment(example, 0)], formatter, 64)
    assert torch.equal(pictures(batch), Pictures(32)([(0, example)])[1:])
