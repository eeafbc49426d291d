"""A training step launches its kernels without waiting for the GPU, on one that is pretended."""

from __future__ import annotations

import pytest
import tiny
from emulated import PretendedGPU

from unifluid.heads.diffusion_mlp import DiffusionMLP
from unifluid.heads.flow_mlp import FlowMLP
from unifluid.layers import normalised
from unifluid.optimization import AdamW, Muon
from unifluid.packing import pack

COPIES = 2


@pytest.mark.parametrize("head", [FlowMLP, DiffusionMLP], ids=lambda head: head.__name__)
def test_the_losses_are_computed_without_waiting(head):
    host = tiny.model(head=head)
    formatter = tiny.formatter(host)
    batch = pack([formatter.segment(e, row) for row, e in enumerate(tiny.examples())], formatter, 64)
    model, empty = PretendedGPU.moved(host).train(), PretendedGPU.empty
    drawn, n, d = len(batch.target_rows), model.image_tokenizer.num_tokens, model.image_tokenizer.token_dim
    u, noise = empty(drawn, COPIES, n), empty(drawn, COPIES, n, d)
    with PretendedGPU():
        batch = batch.to("cuda")
        tokens = model.image_tokenizer.tokens(model.image_tokenizer.encode(batch.targets), empty(drawn, n, d))
        losses = model(batch, tokens, u, noise, empty(drawn, n, d))
        total = (losses.text * batch.label_weight).sum() + losses.image.mean((1, 2)).sum()
    assert total.device.type == "cuda" and losses.image.shape == (drawn, COPIES, n)


@pytest.mark.parametrize("optimization", [AdamW(), Muon(matrices="blocks")], ids=lambda o: type(o).__name__)
def test_an_update_is_made_without_waiting(optimization):
    model = PretendedGPU.moved(tiny.model())
    optimizer = optimization.configure(model.named_parameters(), 10)["optimizer"]
    for p in model.parameters():
        p.grad = PretendedGPU.empty(*p.shape) if p.requires_grad else None
    with PretendedGPU():
        for _ in range(2):
            optimizer.step()


def test_pictures_are_normalised_without_waiting():
    with PretendedGPU():
        assert normalised(PretendedGPU.empty(2, 3, 4, 4), (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)).shape == (2, 3, 4, 4)
