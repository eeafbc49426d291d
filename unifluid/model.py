"""The model: embed → backbone → heads → per-token losses. No Lightning, no formulas, no concrete part.

One mixed batch makes one backbone call; generation and understanding differ only in what is placed where
(`sequence`, `packing`) and in which head reads which positions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unifluid.interfaces import Backbone, ImageEncoder, ImageHead, ImageTokenizer, Part, TextHead
from unifluid.sequence import Batch


@dataclass
class TokenLosses:
    """text (n_labels,) cross-entropy in nats · image (n_targets, K, N) head loss; each in its batch's order."""

    text: Tensor
    image: Tensor


class UniFluidModel(nn.Module):
    """The five slots, joined by two projections, the own and next position tables and the BOI embedding.

    `position_scale` is the initial size of the 2-D position embeddings beside tokens of unit size (**assumed**: .02
    beside .5 was hardly seen by small models), `feature_scale` that of the image encoder's projected features,
    `token_scale` that of projected image tokens and BOI.
    """

    def __init__(
        self,
        backbone: Backbone,
        text_head: TextHead,
        image_encoder: ImageEncoder,
        image_tokenizer: ImageTokenizer,
        image_head: ImageHead,
        position_scale: float = 0.5,
        feature_scale: float = 1.0,
        token_scale: float = 1.0,
    ):
        super().__init__()
        if backbone.logit_softcap not in (None, text_head.softcap):
            raise ValueError(
                f"the backbone's logits are softly capped to ± {backbone.logit_softcap}, but the text head's softcap "
                f"is {text_head.softcap}: give text_head softcap {backbone.logit_softcap}"
            )
        self.backbone, self.text_head, self.image_encoder = backbone, text_head, image_encoder
        self.image_tokenizer = image_tokenizer.requires_grad_(False).eval()
        self.image_head = image_head
        width, grid = backbone.width, image_tokenizer.grid
        self.encoder_projection = nn.Linear(image_encoder.width, width)
        self.token_projection = nn.Linear(image_tokenizer.token_dim, width)
        self.own_position = nn.Parameter(torch.randn(*grid, width) * position_scale)
        self.next_position = nn.Parameter(torch.randn(*grid, width) * position_scale)
        self.boi = nn.Parameter(torch.randn(width) * token_scale)
        nn.init.normal_(self.token_projection.weight, std=token_scale * image_tokenizer.token_dim**-0.5)
        nn.init.zeros_(self.token_projection.bias)
        nn.init.normal_(self.encoder_projection.weight, std=feature_scale * image_encoder.width**-0.5)

    def freeze(self, pattern: str) -> None:
        """Parameters whose names `pattern`, a regular expression, matches are trained no longer. Raises ValueError."""
        try:
            chosen = [parameter for name, parameter in self.named_parameters() if re.search(pattern, name)]
        except re.error as error:
            raise ValueError(f"model.frozen {pattern!r} is no regular expression: {error}") from error
        if not chosen:
            raise ValueError(f"model.frozen {pattern!r} matches the name of no parameter")
        for parameter in chosen:
            parameter.requires_grad_(False)

    def slots(self) -> tuple[Part, ...]:
        """The exchangeable parts."""
        return self.backbone, self.text_head, self.image_encoder, self.image_tokenizer, self.image_head

    def layers(self) -> list[nn.Module]:
        """The heavy layers of all parts that take part in training steps; the image tokenizer is none of them."""
        return [*self.backbone.layers(), *self.image_encoder.layers(), *self.image_head.layers()]

    def train(self, mode: bool = True) -> UniFluidModel:
        """The image tokenizer is frozen: it stays in evaluation mode."""
        super().train(mode)
        self.image_tokenizer.eval()
        return self

    def next_inputs(self, order: Tensor, k: int, tokens: Tensor | None = None, size: int = 1) -> Tensor:
        """Inputs that predict the `size` places of `order` (n, N) from `k` on -> (n, size, D).

        They carry `tokens` (n, m, d), those of the m places before `k`, m <= size; those left over BOI.
        """
        x = self.boi.expand(len(order), size, -1)
        if tokens is not None:
            m = tokens.shape[1]
            own = self.own_position.flatten(0, 1)[order[:, k - m : k]] + self.token_projection(tokens)
            x = torch.cat([own, x[:, m:].to(own.dtype)], dim=1)
        return x + self.next_position.flatten(0, 1)[order[:, k : k + size]]

    def target_inputs(self, ordered: Tensor, order: Tensor, carried: Tensor | None = None) -> Tensor:
        """Teacher forcing: tokens in generation order (n, N, d) -> inputs (n, N, D) whose place k predicts token k.

        Place k carries token k − 1, or that which `carried` (n, N) says; the first, and those where it says −1, BOI.
        """
        own = self.own_position.flatten(0, 1)[order[:, :-1]] + self.token_projection(ordered[:, :-1])
        x = torch.cat([self.boi.expand(len(order), 1, -1).to(own.dtype), own], dim=1)
        if carried is not None:
            x = x.gather(1, (carried + 1)[..., None].expand_as(x))
        return x + self.next_position.flatten(0, 1)[order]

    def embed(self, batch: Batch, ordered: Tensor | None = None) -> Tensor:
        """All inputs at their places -> (B, L, D); `ordered` (n_targets, N, d): image tokens in generation order."""
        rows, length = batch.layout.segments.shape
        text = self.backbone.embed(batch.text_ids)
        features = self.encoder_projection(self.image_encoder(batch.images))
        parts, index = [text, features.flatten(0, 1)], [batch.text_index, batch.image_index.flatten()]
        if ordered is not None:
            parts.append(self.target_inputs(ordered, batch.orders, batch.carried).flatten(0, 1))
            index.append(batch.target_index.flatten())
        flat = torch.cat([p.to(text.dtype) for p in parts])
        x = flat.new_zeros(rows * length, flat.shape[-1])
        x[torch.cat(index)] = flat  # its backward is a plain gather, far faster on a CPU than index_copy's
        return x.view(rows, length, -1)

    def forward(
        self, batch: Batch, tokens: Tensor, u: Tensor, noise: Tensor, errors: Tensor | None = None
    ) -> TokenLosses:
        """Per-token losses of one packed batch.

        Args:
            tokens: (n_targets, N, d) clean image tokens, row-major.
            u: (n_targets, K, N) uniform draws that become the head's times.
            noise: (n_targets, K, N, d) standard normal.
            errors: (n_targets, N, d) added to the tokens that are read, not to those that are to be predicted, in the
                order of generation.
        """
        ordered = tokens.gather(1, batch.orders[..., None].expand_as(tokens))
        read = ordered if errors is None else ordered + errors
        h = self.backbone(self.embed(batch, read), batch.layout).flatten(0, 1)
        text = self.text_head.loss(h[batch.label_index], self.backbone.output_weight, batch.labels)
        n, copies, count = u.shape
        z = h[batch.target_index.flatten()]
        t = self.image_head.times(u).transpose(0, 1).flatten(1)
        image = self.image_head.loss(z, ordered.flatten(0, 1), t, noise.transpose(0, 1).flatten(1, 2))
        return TokenLosses(text, image.view(copies, n, count).transpose(0, 1))
