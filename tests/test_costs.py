"""What `unifluid plan` says, against real models, torch's counter on them, closed forms and hand counts."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from cli.runs import TINY, error_line
from torch.utils.flop_counter import FlopCounterMode
from toy import make_module

from unifluid.backbones import Decoder
from unifluid.cli.main import main
from unifluid.costs import Sizes, Texts, example_batch, memory, trace
from unifluid.heads import DiffusionMLP

TASKS = ["generate", "caption", "answer", "edit"]
TEXTS = Texts(prompt=6, question=5, answer=4)


def batch_of(model, tasks=TASKS * 3, row_length=96):
    return example_batch(tiny.formatter(model), tasks, TEXTS, row_length)


@pytest.mark.parametrize("frozen", [False, True])
def test_flops_are_those_of_the_real_step(frozen):
    model = tiny.model(head=DiffusionMLP)
    model.image_encoder.requires_grad_(not frozen)
    batch = batch_of(model)
    found = trace(model, batch, copies=3, mixed=False).flops
    n, d = model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim
    with FlopCounterMode(display=False) as counter:
        losses = model(batch, torch.randn(6, n, d), torch.rand(6, 3, n), torch.randn(6, 3, n, d))
        (losses.text.sum() + losses.image.sum()).backward()
    assert sum(found.values()) == counter.get_total_flops()
    assert found["image_tokenizer"] == 0  # pixels are cut, not computed


def test_flops_follow_the_closed_form():
    """6 · parameters · positions, and 12 · L² · width a row and layer for attention; the head's for every copy."""
    width, depth, rows, length, copies = 64, 2, 3, 64, 5
    model = tiny.model(backbone=Decoder(40, width=width, depth=depth, heads=4))
    batch = example_batch(tiny.formatter(model), ["generate"] * 12, Texts(6, 5, 4), length)
    rows, length = batch.layout.segments.shape
    found = trace(model, batch, copies, mixed=False).flops
    matrices = sum(p.numel() for layer in model.backbone.layers() for p in layer.parameters() if p.ndim == 2)
    attention = 3 * 2 * 2 * length**2 * width * rows * depth
    assert found["backbone"] == 6 * matrices * rows * length + attention
    net, tokens = model.image_head.net, 12 * model.image_tokenizer.num_tokens
    once = net.condition.weight.numel()  # the condition is projected once for all copies
    every = sum(p.numel() for p in net.parameters() if p.ndim == 2) - once
    no_gradient = net.input.weight.numel() + net.time[0].weight.numel()  # of what they read, which is given
    assert found["image_head"] == tokens * (6 * once + copies * (6 * every - 2 * no_gradient))


def test_the_tokenizer_works_forward_only():
    from unifluid.tokenizers import SmallKL

    tokenizer = SmallKL(image_size=16, channels=8)
    model = tiny.model(image_tokenizer=tokenizer)
    found = trace(model, batch_of(model, ["generate"] * 2), 1, mixed=False).flops["image_tokenizer"]
    with FlopCounterMode(display=False) as counter:
        tokenizer.encode(torch.randn(2, 3, 16, 16))
    assert found == counter.get_total_flops() > 0


@pytest.mark.parametrize("mixed", [False, True])
def test_activations_are_what_autograd_keeps(mixed):
    model = tiny.model()
    batch, seen, kept = batch_of(model), {p.untyped_storage().data_ptr() for p in model.parameters()}, {}
    n, d = model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim
    squares = {batch.layout.segments.shape[1], model.image_encoder.num_tokens}

    def keep(t):
        scores = t.ndim > 2 and t.shape[-1] == t.shape[-2] in squares
        if not scores and t.untyped_storage().data_ptr() not in seen:
            kept[t.untyped_storage().data_ptr()] = t
        return t

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False),
    ):
        losses = model(batch, torch.randn(6, n, d), torch.rand(6, 2, n), torch.randn(6, 2, n, d))
        losses.text.sum() + losses.image.sum()
    real = sum(t.untyped_storage().nbytes() for t in kept.values())
    found = trace(model, batch, 2, mixed)
    assert found.kept == pytest.approx(real, rel=0.05)
    assert len(found.layers) == len(model.backbone.blocks)
    assert 0 < sum(n for n, _ in found.layers) < found.kept


def test_sizes_and_memory_by_hand():
    model = tiny.model()
    model.image_encoder.requires_grad_(False)
    sizes = Sizes.of(model)
    assert sizes.total == sum(p.numel() for p in model.parameters())
    assert sizes.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    million = Sizes({"a": (3_000_000, 2_000_000), "image_tokenizer": (1_000_000, 0)}, 1_000_000, 500_000, 250_000)
    one = memory(million, 7.0, mixed=True, ema=True)
    assert one == {
        "weights": 16e6,
        "gradients": 8e6,
        "optimizer": 16e6,
        "EMA": 8e6,
        "bf16 weights": 6e6,
        "activations": 7.0,
    }
    four = memory(million, 7.0, mixed=True, ema=False, devices=4)
    gathered = 8 * 500_000 + 250_000 * 8
    assert four == {
        "weights": 3e6 + 4e6,
        "gradients": 2e6,
        "optimizer": 4e6,
        "EMA": 0.0,
        "gathered": gathered,
        "activations": 7.0,
    }


def test_the_command_agrees_with_the_model(capsys):
    arguments = ["plan", "--config", str(TINY), "--allow-module", "tiny", "--devices", "2"]
    assert main([*arguments, "--json", "--mfu", "0.5", "--device", "h200"]) == 0
    found = json.loads(capsys.readouterr().out)
    module = make_module()
    module.backbone_factory = lambda vocabulary: Decoder(vocabulary, width=32, depth=1, heads=2)
    module.configure_model()
    for name in ("backbone", "image_head", "image_encoder"):
        expected = sum(p.numel() for p in getattr(module.model, name).parameters())
        assert found["parameters"][name]["all"] == expected
    assert found["steps"] == 6 and found["rows_per_device"] == 2
    flops = sum(found["flops_per_step"].values())
    assert found["seconds_per_step"] == pytest.approx(flops / (2 * 989e12 * 0.5))
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "FSDP2 over 2, layers recomputed" in printed and "backbone" in printed


def test_mistakes_are_named(capsys):
    arguments = ["plan", "--config", TINY, "--allow-module", "tiny"]
    assert "4 rows a step cannot be split over 8 devices" in error_line(capsys, *arguments)
    assert "--mfu" in error_line(capsys, *arguments, "--devices", "2", "--mfu", "1.5")
    assert "--device" in error_line(capsys, *arguments, "--device", "abacus")
    assert "accumulate_grad_batches must be at least 1" in error_line(
        capsys, *arguments, "--trainer.accumulate_grad_batches", "0"
    )
    assert "--config" in error_line(capsys, "plan")
