"""The LightningModule that trains an image encoder to tell what pictures show, for scores that compare pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, normalize

from unifluid import randomness
from unifluid.interfaces import ImageEncoder
from unifluid.modules.base import Trainable
from unifluid.optimization import AdamW
from unifluid.sequence import Example, to_unit

INITIAL_SCALE = 10.0  # of the similarities: CLIP's 1 / 0.07 is for larger batches
MAX_SCALE = 100.0  # CLIP's


class ContrastiveModule(Trainable):
    """Two pictures of one thing get similar features, pictures of different things do not.

    InfoNCE over the pairs of a batch, in both directions, as CLIP does with picture and text (arXiv 2103.00020 §2.3).
    Pairs are the examples of edit streams: what is looked at, and what is made of it. Both are moved and recoloured at
    random in training, so that features follow what is shown and not where or in which colour.

    Features are one linear map of all the encoder's tokens; their mean, which forgets what is where, found a third of
    the pairs that the map did.

    Args:
        encoder: what is trained, together with that map.
        optimization: optimiser and schedule.
        width: of the features.
        seed: of every draw in training.
    """

    image_tokenizer = None  # pictures are taken as they are: data that stores moments of them is refused

    def __init__(self, encoder: ImageEncoder, optimization: AdamW, width: int = 128, seed: int = 0):
        super().__init__()
        self.encoder, self.optimization, self.seed = encoder, optimization, seed
        self.projection = nn.Linear(encoder.num_tokens * encoder.width, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def configure_model(self) -> None:
        """A fresh run starts from the encoder's pretrained weights, if it names any."""
        if self._trainer is not None and self.trainer.ckpt_path is None:
            self.encoder.load_pretrained()

    # -- data -------------------------------------------------------------------------------------------------------

    def collator(self, text_rows: int | None = None, image_rows: int | None = None, training: bool = True) -> Pairs:
        """For the kit's data modules: the two pictures of every edit."""
        return Pairs(self.encoder.image_size)

    # -- losses -----------------------------------------------------------------------------------------------------

    def forward(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1], at the encoder's size -> features (B, width)."""
        return self.projection(self.encoder(image).flatten(1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        generator = randomness.generator(self.seed, "distortion", self.global_step, batch_idx, self.global_rank)
        loss, found = self.contrast(distorted(batch.flatten(0, 1), generator).view_as(batch))
        self.log_step({"train/contrast": loss, "train/found": found}, batch_idx)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        loss, found = self.contrast(batch)
        values = {"val/contrast": loss, "val/found": found}
        self.log_dict(values, batch_size=batch.shape[1], prog_bar=True, sync_dist=True)

    test_step = validation_step

    def contrast(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Of pairs (2, B, 3, H, W): cross-entropy of finding each picture's other one among those of the batch, and the
        share of pictures that find it."""
        one, other = normalize(self(pairs.flatten(0, 1)).float(), dim=1).chunk(2)
        similarity = one @ other.T * self.log_scale.exp().clamp(max=MAX_SCALE)
        own = torch.arange(len(one), device=one.device)
        loss = (cross_entropy(similarity, own) + cross_entropy(similarity.T, own)) / 2
        return loss, (similarity.argmax(1) == own).float().mean()


@dataclass
class Pairs:
    """(global row, example of an edit) pairs -> pictures (2, B, 3, H, W) in [-1, 1]: sources, then targets. Picklable.

    Raises ValueError for examples of other tasks, which have no two pictures.
    """

    size: int

    def __call__(self, rows: list[tuple[int, Example]]) -> Tensor:
        for _, example in rows:
            if example.task != "edit":
                raise ValueError(f"pairs of pictures come from edits, but {example.id} is of task {example.task}")
        pairs = [(to_unit(e.images[0], self.size), to_unit(e.target, self.size)) for _, e in rows]
        return torch.stack([torch.stack(side) for side in zip(*pairs, strict=True)])


def distorted(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], each scaled, stretched, turned, moved and recoloured a little, white outside.

    Up to 15 %, 10 %, 0.15 rad and 7.5 % of the side; colours by a random matrix near the identity (sizes **assumed**).
    """
    n, shape = len(image), list(image.shape)
    size, stretch, turn, right, down = torch.rand(5, n, generator=generator) * 2 - 1
    size, stretch, cos, sin = 1 + 0.15 * size, 1 + 0.1 * stretch, (0.15 * turn).cos(), (0.15 * turn).sin()
    rows = (size * cos, -sin, 0.15 * right), (sin, size * stretch * cos, 0.15 * down)
    where = torch.stack([torch.stack(row) for row in rows]).permute(2, 0, 1).to(image)
    colours = (torch.eye(3) + 0.25 * torch.randn(n, 3, 3, generator=generator)).to(image)
    ink = grid_sample(image - 1, affine_grid(where, shape, align_corners=False), align_corners=False)  # 0 is white
    return (torch.einsum("nij,njhw->nihw", colours, ink) + 1).clamp(-1, 1)
