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
from unifluid.module import UniFluid
from unifluid.sequence import TASKS, Batch

STEPS = 300


def task_losses(module: UniFluid, batch: Batch) -> dict[str, torch.Tensor]:
    """Mean loss of each task: text by tokens, images by tokens and copies."""
    losses, of_task = module.token_losses(batch, "train"), defaultdict(list)
    for i, task in enumerate(batch.text_tasks):
        of_task[task].append(losses.text[batch.label_example == i].mean())
    for image, task in zip(losses.image, batch.target_tasks, strict=True):
        of_task[task].append(image.mean())
    return {task: torch.stack(values).mean() for task, values in of_task.items()}


@pytest.mark.parametrize("head", [FlowMLP, DiffusionMLP])
def test_one_batch_is_learned_by_heart(head):
    head = functools.partial(head, depth=2, width=64)
    module = make_module(image_head=head, lam=1.0, copies=4, prompt_dropout=0.0, source_dropout=0.0)
    module.configure_model()
    batch = module.collator()(list(enumerate(tiny.examples())))
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(STEPS + 1):
        losses = task_losses(module, batch)
        if step == 0:
            start = {task: loss.item() for task, loss in losses.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        schedule.step()
    assert start.keys() == set(TASKS)
    print({t: (start[t], losses[t].item() / start[t]) for t in TASKS})
    assert {task: losses[task].item() < 0.1 * start[task] for task in TASKS} == dict.fromkeys(TASKS, True)
