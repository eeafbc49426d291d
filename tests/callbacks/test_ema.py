"""The average against a float64 loop; that raw weights come back; that a resumed run goes on bitwise alike."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from callbacks.ema import EMA, find_ema, live_weights


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

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


class Record(L.Callback):
    """Raw weights after every optimizer step, and what validation saw."""

    def __init__(self):
        self.raw, self.seen = {}, []

    def on_train_batch_end(self, trainer, module, *_):
        self.raw[trainer.global_step] = module.net.weight.detach().clone()

    def on_validation_batch_end(self, trainer, module, *_):
        self.seen.append(module.net.weight.detach().clone())


def trainer(tmp_path, *callbacks, steps=6, **options):
    return L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        **{"num_sanity_val_steps": 0, "limit_val_batches": 0, **options},
    )


def data(n=64):
    """Equal batches: where a resumed loader stands is not what these tests are about."""
    return DataLoader(torch.randn(2, 4, generator=torch.Generator().manual_seed(1)).repeat(n // 2, 1), batch_size=2)


def reference(start, raws, decay):
    average = start.double()
    for n, raw in enumerate(raws):
        d = min(decay, (1 + n) / (10 + n))
        average = d * average + (1 - d) * raw.double()
    return average


@pytest.mark.parametrize("every, accumulate", [(1, 1), (2, 1), (1, 3)])
def test_average_equals_a_float64_loop(tmp_path, every, accumulate):
    module, ema, record = Toy(), EMA(0.3, every), Record()
    start = module.net.weight.detach().clone()
    trainer(tmp_path, ema, record, accumulate_grad_batches=accumulate).fit(module, data())
    raws = [raw for step, raw in record.raw.items() if step and step % every == 0]
    expected = reference(start, raws, 0.3)
    assert ema.updates == len(raws) == 6 // every
    torch.testing.assert_close(ema.weights["net.weight"].double(), expected, rtol=0, atol=1e-6)
    assert set(ema.weights) == {"net.weight", "net.bias"}  # no frozen part, no buffer, tied weights once
    assert torch.equal(module.net.weight, record.raw[6])


def test_average_of_bf16_weights_is_fp32():
    module, ema = Toy(torch.bfloat16), EMA(0.9999)
    ema.weights, ema.updates = {"net.bias": module.net.bias.detach().float()}, 10**6
    start = ema.weights["net.bias"].clone()
    nn.init.constant_(module.net.bias, 1.0)
    for _ in range(10):
        ema.update(module)
    expected = 1 - (1 - start.double()) * 0.9999**10
    torch.testing.assert_close(ema.weights["net.bias"].double(), expected, rtol=0, atol=1e-6)


def test_validation_sees_the_average_and_raw_weights_return(tmp_path):
    module, ema, record = Toy(), EMA(0.9), Record()
    trainer(tmp_path, ema, record, limit_val_batches=1, val_check_interval=6).fit(module, data(), data())
    assert torch.equal(record.seen[-1], ema.weights["net.weight"])
    assert not torch.equal(record.seen[-1], record.raw[6])
    assert torch.equal(module.net.weight, record.raw[6])


def test_raw_weights_return_after_an_exception(tmp_path):
    module, ema, record = Toy(), EMA(0.9), Record()
    trainer(tmp_path, ema, record).fit(module, data())
    raw = module.net.weight.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), ema.swapped(module):
        assert torch.equal(module.net.weight, ema.weights["net.weight"])
        with ema.swapped(module, "raw"):
            assert torch.equal(module.net.weight, raw)
        with ema.swapped(module):
            assert ema.live == "ema"
        assert torch.equal(module.net.weight, ema.weights["net.weight"])
        raise RuntimeError("inside")
    assert torch.equal(module.net.weight, raw)

    def broken(batch, batch_idx):
        assert torch.equal(module.net.weight, ema.weights["net.weight"])
        raise RuntimeError("in validation")

    module.validation_step = broken
    with pytest.raises(RuntimeError, match="in validation"):
        trainer(tmp_path, ema, limit_val_batches=1).validate(module, data(), verbose=False)
    assert ema.live == "raw" and torch.equal(module.net.weight, raw)


def test_a_checkpoint_never_holds_averaged_weights_as_live_ones(tmp_path):
    class SaveInValidation(L.Callback):
        def on_validation_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "during.ckpt")

    module, ema, record = Toy(), EMA(0.9), Record()
    callbacks = (SaveInValidation(), ema, record)
    trainer(tmp_path, *callbacks, limit_val_batches=1, val_check_interval=6).fit(module, data(), data())
    checkpoint = torch.load(tmp_path / "during.ckpt", weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["net.weight"], record.raw[6])
    assert torch.equal(checkpoint["state_dict"]["tied.weight"], record.raw[6])
    assert torch.equal(checkpoint["ema"]["net.weight"], record.seen[-1])
    assert checkpoint["ema_updates"] == 6


def test_resume_is_exact(tmp_path):
    unbroken = EMA(0.9)
    trainer(tmp_path, unbroken, steps=8).fit(Toy(), data())
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=5, filename="{step}", save_top_k=-1)
    trainer(tmp_path, EMA(0.9), saver, steps=5).fit(Toy(), data())
    resumed = EMA(0.9)
    trainer(tmp_path, resumed, steps=8).fit(Toy(), data(), ckpt_path=tmp_path / "step=5.ckpt")
    assert resumed.updates == unbroken.updates == 8
    for name, value in unbroken.weights.items():
        assert torch.equal(value, resumed.weights[name])


def test_validating_a_checkpoint_uses_its_average(tmp_path):
    ema, saver = EMA(0.9), ModelCheckpoint(tmp_path, every_n_train_steps=6, filename="end")
    trainer(tmp_path, ema, saver).fit(Toy(), data())
    fresh = Toy()
    run = trainer(tmp_path, EMA(), limit_val_batches=1)
    results = run.validate(fresh, data(), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    assert results[0]["val/weight"] == pytest.approx(ema.weights["net.weight"].mean().item(), abs=1e-7)
    with live_weights(run, fresh, "raw") as live:
        assert live == "raw" and not torch.equal(fresh.net.weight, find_ema(run).weights["net.weight"])


def test_a_checkpoint_without_an_average_is_not_taken_for_one(tmp_path):
    trainer(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=6, filename="plain")).fit(Toy(), data())
    with pytest.raises(ValueError, match="no EMA weights"):
        trainer(tmp_path, EMA()).validate(Toy(), data(), ckpt_path=tmp_path / "plain.ckpt", verbose=False)
    resumed = EMA()
    with pytest.warns(UserWarning, match="starts anew"):
        trainer(tmp_path, resumed, steps=8).fit(Toy(), data(), ckpt_path=tmp_path / "plain.ckpt")
    assert resumed.updates == 2


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="decay"):
        EMA(decay=1.0)
