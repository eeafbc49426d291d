"""Image encoder from scratch: a small vision transformer on a convolutional stem."""

from __future__ import annotations

import functools
import itertools
from typing import Any, Literal

from torch import Tensor, nn

from unifluid.interfaces import ImageEncoder
from unifluid.layers import Conv
from unifluid.weights import fit, read_part

PREFIXES = ("", "encoder.", "model.image_encoder.")  # where a file may keep the weights


class Patches(ImageEncoder):
    """timm's VisionTransformer, features of all patch tokens after the final norm: no class token, no pooling.

    With the convolutional stem small models learn to read pictures in minutes; cut into patches by one linear map,
    they stay on a plateau for as long (Xiao et al., arXiv 2106.14881, saw the same at scale).

    Args:
        image_size: H = W in pixels, a multiple of `patch_size`.
        patch_size: pixels a token covers, down and across; a power of two for the convolutional stem.
        width: D_enc, a multiple of `heads`.
        channels: width of the stem's first convolution; it doubles with every halving of the picture.
        depth: transformer blocks; 0 leaves the stem and its position embeddings.
        stem: "convolution", or "linear" as in the original vision transformer.
        weights: checkpoint of `ContrastiveModule` (or of a model that contains this part), or .safetensors.
    """

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 8,
        width: int = 192,
        channels: int = 32,
        depth: int = 2,
        heads: int = 4,
        stem: Literal["convolution", "linear"] = "convolution",
        weights: str | None = None,
    ):
        from timm.layers import PatchEmbed
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        if min(image_size, patch_size, width, channels, heads, depth + 1) < 1:
            raise ValueError("image_size, patch_size, width, channels and heads must be at least 1, depth at least 0")
        if image_size % patch_size or width % heads:
            raise ValueError(
                f"image_size {image_size} must be a multiple of patch_size {patch_size}, width {width} of heads {heads}"
            )
        stems = {"convolution": functools.partial(ConvolutionalStem, channels=channels), "linear": PatchEmbed}
        if stem not in stems:
            raise ValueError(f"stem must be {' or '.join(stems)}, got {stem!r}")
        self.image_size, self.width, self.num_tokens = image_size, width, (image_size // patch_size) ** 2
        self.weights = weights
        self.vit = VisionTransformer(
            image_size,
            patch_size,
            num_classes=0,
            global_pool="",
            class_token=False,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            embed_layer=stems[stem],
        )
        nn.init.normal_(self.vit.pos_embed, std=0.5)  # timm's .02 is hardly seen beside the stem's output
        for block in self.vit.blocks:
            block.attn.fused_attn = False  # on CPUs, the fused backward in bf16 is ten times slower at few tokens

    def layers(self) -> list[nn.Module]:
        return list(self.vit.blocks)

    def load_pretrained(self) -> None:
        """Load `weights`. Raises ValueError naming the file, and the first tensor that does not fit."""
        if self.weights is not None:
            fit(self, read_part(self.weights, "Patches", PREFIXES, "vit.pos_embed"), self.weights)

    def forward(self, image: Tensor) -> Tensor:
        return self.vit.forward_features(image)


class ConvolutionalStem(nn.Module):
    """3×3 convolutions of stride 2 down to one place a token, one more to the width, then layer norm.

    Built by VisionTransformer in place of its PatchEmbed. The kernels are matrices, for Muon: with AdamW on them the
    text loss of small models stayed on its plateau for twice as many steps (experiments/NOTES.md).
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, channels: int, **unused: Any):
        super().__init__()
        halvings = patch_size.bit_length() - 1
        if patch_size != 2**halvings:
            raise ValueError(f"patch_size {patch_size} must be a power of two for the convolutional stem")
        self.num_patches = (img_size // patch_size) ** 2
        widths = [in_chans, *(channels << k for k in range(halvings))]
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [Conv(inputs, outputs, stride=2), nn.GroupNorm(1, outputs), nn.GELU()]
        self.blocks = nn.Sequential(*layers, Conv(widths[-1], embed_dim))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, M, embed_dim), row-major."""
        return self.norm(self.blocks(image).flatten(2).mT)
