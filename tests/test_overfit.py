"""One batch of all four tasks is learned by heart: every part of the model passes on what it must."""

from __future__ import annotations

import functools
from collections import defaultdict

import pytest
import tiny
import torch
from toy import make_module

from unifluid.heads.diffusion_mlp import DiffusionMLP
from unifluid.heads.flow_mlp import FlowMLP
from unifluid.modules.unifluid import UniFluid
from unifluid.sequence import TASKS, Batch

STEPS = 300


def task_losses(module: UniFluid, batch: Batch, step: int) -> dict[str, torch.Tensor]:
    """Mean loss of each task, under times and noise of this step's own: pictures are learned, not draws."""
    losses, of_task = module.token_losses(batch, f"step {step}"), defaultdict(list)
    for i, task in enumerate(batch.text_tasks):
        of_task[task].append(losses.text[batch.label_example == i].mean())
    for image, task in zip(losses.image, batch.target_tasks, strict=True):
        of_task[task].append(image.mean())
    return {task: torch.stack(values).mean() for task, values in of_task.items()}


@pytest.mark.parametrize("head", [FlowMLP, DiffusionMLP])
def test_one_batch_is_learned_by_heart(head):
    """Every task's loss falls below a tenth of its start within 300 steps."""
    head = functools.partial(head, depth=2, width=64)
    module = make_module(image_head=head, lam=1.0, copies=4, prompt_dropout=0.0, source_dropout=0.0)
    module.configure_model()
    batch = module.collator()(list(enumerate(tiny.examples())))
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    start: dict[str, float] = {}
    for step in range(STEPS + 1):
        losses = task_losses(module, batch, step)
        shares = {task: loss.item() / start.setdefault(task, loss.item()) for task, loss in losses.items()}
        if all(share < 0.1 for share in shares.values()):
            break
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert start.keys() == set(TASKS)
    assert {task for task, share in shares.items() if share >= 0.1} == set()
