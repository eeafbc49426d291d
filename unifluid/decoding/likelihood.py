"""How likely the model finds given texts: what its understanding side thinks of a picture it has drawn."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unifluid.decoding.prefix import inference
from unifluid.model import UniFluidModel
from unifluid.packing import pack, tightest_fit
from unifluid.sequence import TEXT_TASKS, Example, Formatter


def log_likelihood(model: UniFluidModel, formatter: Formatter, examples: list[Example], batch_size: int = 64) -> Tensor:
    """Log-probability of each example's caption or answer, its end included, in nats: (n,), fp32, on the CPU.

    Runs on the model's device, in the caller's autocast. Raises ValueError for an example without a text.
    """
    if any(example.task not in TEXT_TASKS or not (example.caption or example.answers) for example in examples):
        raise ValueError("only captions and answers have a likelihood here, and each must have its text")
    found = torch.zeros(len(examples))
    with inference(model):
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            segments = [formatter.segment(example, 0) for example in part]
            longest = max(formatter.length(segment) for segment in segments)
            rows, _ = tightest_fit([formatter.length(s) for s in segments], longest)
            placed = [i for row in rows for i, _ in row]
            batch = pack(segments, formatter, longest).to(model.boi.device)
            h = model.backbone(model.embed(batch), batch.layout).flatten(0, 1)
            loss = model.text_head.loss(h[batch.label_index], model.backbone.output_weight, batch.labels)
            total = loss.new_zeros(len(part)).index_add(0, batch.label_example, loss).cpu()
            found[torch.tensor(placed) + start] = -total  # a batch counts its texts in the order they are packed in
    return found


def likelihood_of_prompts(
    model: UniFluidModel, formatter: Formatter, examples: list[Example], images: Tensor, asked: str
) -> Tensor:
    """For each drawn image (n, 3, H, W) uint8 the log-probability (n,) of its prompt as an answer to `asked`."""
    read = [
        replace(example, task="caption", image=image, target=None, prompt=asked, caption=example.condition)
        for example, image in zip(examples, images, strict=True)
    ]
    return log_likelihood(model, formatter, read)
