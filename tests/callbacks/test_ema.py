"""The average against a float64 loop; that raw weights come back; that a resumed run goes on bitwise alike."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from toy import Toy, batches, make_trainer

from callbacks.ema import EMA, find_ema, live_weights
from callbacks.last import LastCheckpoint


class Record(L.Callback):
    """Raw weights after every optimizer step, and what validation saw."""

    def __init__(self):
        self.raw, self.seen = {}, []

    def on_train_batch_end(self, trainer, module, *_):
        self.raw[trainer.global_step] = module.net.weight.detach().clone()

    def on_validation_batch_end(self, trainer, module, *_):
        self.seen.append(module.net.weight.detach().clone())


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
    make_trainer(tmp_path, ema, record, accumulate_grad_batches=accumulate).fit(module, batches())
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
    make_trainer(tmp_path, ema, record, limit_val_batches=1, val_check_interval=6).fit(module, batches(), batches())
    assert torch.equal(record.seen[-1], ema.weights["net.weight"])
    assert not torch.equal(record.seen[-1], record.raw[6])
    assert torch.equal(module.net.weight, record.raw[6])


def test_raw_weights_return_after_an_exception(tmp_path):
    module, ema, record = Toy(), EMA(0.9), Record()
    make_trainer(tmp_path, ema, record).fit(module, batches())
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
        make_trainer(tmp_path, ema, limit_val_batches=1).validate(module, batches(), verbose=False)
    assert ema.live == "raw" and torch.equal(module.net.weight, raw)


def test_a_checkpoint_never_holds_averaged_weights_as_live_ones(tmp_path):
    class SaveInValidation(L.Callback):
        def on_validation_batch_end(self, trainer, *_):
            trainer.save_checkpoint(tmp_path / "during.ckpt")

    module, ema, record = Toy(), EMA(0.9), Record()
    callbacks = (SaveInValidation(), ema, record)
    make_trainer(tmp_path, *callbacks, limit_val_batches=1, val_check_interval=6).fit(module, batches(), batches())
    checkpoint = torch.load(tmp_path / "during.ckpt", weights_only=True)
    assert torch.equal(checkpoint["state_dict"]["net.weight"], record.raw[6])
    assert torch.equal(checkpoint["state_dict"]["tied.weight"], record.raw[6])
    assert torch.equal(checkpoint["ema"]["net.weight"], record.seen[-1])
    assert checkpoint["ema_updates"] == 6


def test_resume_is_exact(tmp_path):
    unbroken = EMA(0.9)
    make_trainer(tmp_path, unbroken, steps=8).fit(Toy(), batches())
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=5, filename="{step}", save_top_k=-1)
    make_trainer(tmp_path, EMA(0.9), saver, steps=5).fit(Toy(), batches())
    resumed = EMA(0.9)
    make_trainer(tmp_path, resumed, steps=8).fit(Toy(), batches(), ckpt_path=tmp_path / "step=5.ckpt")
    assert resumed.updates == unbroken.updates == 8
    for name, value in unbroken.weights.items():
        assert torch.equal(value, resumed.weights[name])


def test_validating_a_checkpoint_uses_its_average(tmp_path):
    ema, saver = EMA(0.9), ModelCheckpoint(tmp_path, every_n_train_steps=6, filename="end")
    make_trainer(tmp_path, ema, saver).fit(Toy(), batches())
    fresh = Toy()
    run = make_trainer(tmp_path, EMA(), limit_val_batches=1)
    results = run.validate(fresh, batches(), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    assert results[0]["val/weight"] == pytest.approx(ema.weights["net.weight"].mean().item(), abs=1e-7)
    with live_weights(run, fresh, "raw") as live:
        assert live == "raw" and not torch.equal(fresh.net.weight, find_ema(run).weights["net.weight"])


def test_a_checkpoint_without_an_average_is_not_taken_for_one(tmp_path):
    make_trainer(tmp_path, ModelCheckpoint(tmp_path, every_n_train_steps=6, filename="plain")).fit(Toy(), batches())
    with pytest.raises(ValueError, match="no EMA weights"):
        make_trainer(tmp_path, EMA()).validate(Toy(), batches(), ckpt_path=tmp_path / "plain.ckpt", verbose=False)
    resumed = EMA()
    with pytest.warns(UserWarning, match="starts anew"):
        make_trainer(tmp_path, resumed, steps=8).fit(Toy(), batches(), ckpt_path=tmp_path / "plain.ckpt")
    assert resumed.updates == 2


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="decay"):
        EMA(decay=1.0)


def test_a_run_that_goes_on_without_an_average_says_so(tmp_path):
    first = make_trainer(tmp_path, LastCheckpoint(), EMA(0.5), steps=2)
    first.fit(Toy(), batches())
    with pytest.warns(UserWarning, match="this run keeps no average, so the checkpoint's EMA weights end here"):
        make_trainer(tmp_path, LastCheckpoint(), steps=3).fit(Toy(), batches(), ckpt_path=tmp_path / "last.ckpt")
