"""Training as one would first write it: an example a row, padded to the longest, and logits at every position."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from unifluid.layout import Layout
from unifluid.model import TokenLosses, UniFluidModel
from unifluid.packing import pack
from unifluid.sequence import Batch, Formatter, Segment


class DenseModel(UniFluidModel):
    """The same model; its logits are made at all positions, and those without a label are ignored afterwards."""

    def forward(
        self, batch: Batch, tokens: Tensor, u: Tensor, noise: Tensor, errors: Tensor | None = None
    ) -> TokenLosses:
        ordered = tokens.gather(1, batch.orders[..., None].expand_as(tokens))
        read = ordered if errors is None else ordered + errors
        h = self.backbone(self.embed(batch, read), batch.layout).flatten(0, 1)
        logits = self.text_head.logits(h, self.backbone.output_weight)
        labels = torch.full((len(h),), -100, device=h.device)
        labels[batch.label_index] = batch.labels
        text = cross_entropy(logits, labels, ignore_index=-100, reduction="none")[batch.label_index]
        n, copies, count = u.shape
        z = h[batch.target_index.flatten()].repeat(copies, 1)  # the projection of z, too, is computed for every copy
        x = ordered.flatten(0, 1).repeat(copies, 1)
        t = self.image_head.times(u).transpose(0, 1).flatten()
        image = self.image_head.loss(z, x, t[None], noise.transpose(0, 1).flatten(0, 2)[None])
        return TokenLosses(text, image.view(copies, n, count).transpose(0, 1))


def one_a_row(segments: list[Segment], formatter: Formatter) -> Batch:
    """A batch of one segment a row, all as long as the longest."""
    length = max(formatter.length(s) for s in segments)
    singles = [pack([s], formatter, length) for s in segments]
    joined: dict[str, object] = {}
    for field in dataclasses.fields(Batch):
        values = [getattr(single, field.name) for single in singles]
        if field.name == "layout":
            names = ("segments", "prefix", "positions")
            padded = [v.map(lambda t: pad(t, (0, length - t.shape[1]))) for v in values]
            joined["layout"] = Layout(*(torch.cat([getattr(v, name) for v in padded]) for name in names))
        elif field.name.endswith("_index"):
            joined[field.name] = torch.cat([v + row * length for row, v in enumerate(values)])
        elif field.name == "label_example":
            before = [0, *torch.tensor([len(s.text_tasks) for s in singles]).cumsum(0).tolist()]
            joined[field.name] = torch.cat([v + n for v, n in zip(values, before, strict=False)])
        elif field.name in ("moments", "carried"):  # pictures are encoded in the step, and have no rounds
            joined[field.name] = None
        elif isinstance(values[0], Tensor):
            joined[field.name] = torch.cat(values)
        else:
            joined[field.name] = sum(values[1:], values[0])
    return Batch(**joined)
