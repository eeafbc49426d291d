"""Image encoder: SigLIP (arXiv 2303.15343), version 2 (2502.14786), or any other vision transformer of timm."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from unifluid.interfaces import ImageEncoder
from unifluid.layers import normalised
from unifluid.weights import fit, locate, read_tensors

TENSORS = "model.safetensors"  # what the hub calls the file
PATCHES = "embeddings.patch_embedding.weight"  # a name of transformers' SigLIP
POOLING = ("attn_pool.", "head.", "fc_norm.")
LAYERS = {  # its layers' names -> timm's
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
OUTSIDE = {  # the same, outside of the layers
    "embeddings.patch_embedding": "patch_embed.proj",
    "post_layernorm": "norm",
}


class SigLIP(ImageEncoder):
    """Features of all patch tokens of the last block, after the final norm: no pooling, no class token.

    That is transformers' `SiglipVisionModel(...).last_hidden_state`, and what PaliGemma projects.

    Args:
        model: timm's name. The plain `vit_so400m_patch14_siglip_224` is PaliGemma's. SigLIP 1 and 2 differ in their
            weights alone.
        image_size: H = W in pixels; default: the model's own. Position embeddings of weights trained at another size
            are interpolated.
        weights: a .safetensors or torch file, or a folder with model.safetensors, in the layout of timm, OpenCLIP or
            transformers; or the name of such a folder on the hub: timm/vit_so400m_patch14_siglip_224.webli (SigLIP 1),
            timm/vit_so400m_patch14_siglip_224.v2_webli (SigLIP 2). None: random weights.
        checkpointing: compute activations again in the backward pass, to save memory.
        activation: of the MLPs. SigLIP was trained with the tanh approximation of GELU, where timm computes the exact
            one; null takes timm's for the model.
        options: other arguments of timm's VisionTransformer, such as drop_path_rate, depth or embed_dim.
    """

    def __init__(
        self,
        model: str = "vit_so400m_patch14_siglip_224",
        image_size: int | None = None,
        weights: str | None = None,
        checkpointing: bool = False,
        activation: str | None = "gelu_tanh",
        options: dict[str, Any] | None = None,
    ):
        import timm
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.weights = weights
        settings = {"num_classes": 0, "global_pool": "", **(options or {})}
        settings |= {"img_size": image_size} if image_size is not None else {}
        settings |= {"act_layer": activation} if activation is not None else {}
        try:
            self.vit = timm.create_model(model, pretrained=False, checkpoint_path="", **settings)
        except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"SigLIP: timm cannot build {model} with {settings} ({error})") from error
        if not isinstance(self.vit, VisionTransformer):
            raise ValueError(f"SigLIP: timm's {model} is a {type(self.vit).__name__}, not a plain vision transformer")
        self.vit.set_grad_checkpointing(checkpointing)
        self.image_size, _ = self.vit.patch_embed.img_size
        self.num_tokens, self.width = self.vit.patch_embed.num_patches, self.vit.embed_dim
        if not self.num_tokens:
            raise ValueError(f"SigLIP.image_size {self.image_size} is less than a patch of {model} covers")
        self.mean, self.std = (self.vit.pretrained_cfg[name] for name in ("mean", "std"))

    def layers(self) -> list[nn.Module]:
        return list(self.vit.blocks)

    def forward(self, image: Tensor) -> Tensor:
        return self.vit.forward_features(normalised(image, self.mean, self.std))[:, self.vit.num_prefix_tokens :]

    def load_pretrained(self) -> None:
        """Load `weights`. Raises ValueError naming the file, and the first tensor that does not fit."""
        if self.weights is None:
            return
        path = locate(self.weights, TENSORS)
        path = path / TENSORS if path.is_dir() else path
        fit(self.vit, self.convert(read_tensors(path)), path)

    def convert(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of any layout that `weights` may have -> those of `vit`, at its size, without pooling."""
        from timm.models.vision_transformer import checkpoint_filter_fn

        ours = checkpoint_filter_fn(from_transformers(tensors), self.vit)
        return {name: tensor for name, tensor in ours.items() if not name.startswith(POOLING)}


def from_transformers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of transformers' SiglipVisionModel, or of a model that contains one, under timm's names.

    Everything else in the file is left out. Tensors of another layout come back as they are.
    """
    prefix = next((name.removesuffix(PATCHES) for name in tensors if name.endswith(PATCHES)), None)
    if prefix is None:
        return tensors
    theirs = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    ours = {"pos_embed": theirs.pop("embeddings.position_embedding.weight")[None]}
    for name, tensor in theirs.items():
        module, _, kind = name.rpartition(".")
        if module in OUTSIDE:
            ours[f"{OUTSIDE[module]}.{kind}"] = tensor
        elif layer := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", module):
            if layer[2] in LAYERS:
                ours[f"blocks.{layer[1]}.{LAYERS[layer[2]]}.{kind}"] = tensor
            elif layer[2] == "self_attn.q_proj":
                others = (theirs[name.replace("q_proj", other)] for other in ("k_proj", "v_proj"))
                ours[f"blocks.{layer[1]}.attn.qkv.{kind}"] = torch.cat([tensor, *others])
    return ours
