"""Image tokenizer around diffusers' AutoencoderKL: Stable Diffusion's autoencoder and its relatives.

With the default config 256² pixels become 32×32 latents of 4 channels, and, in patches of 2×2, 256 tokens of 16.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unifluid.interfaces import ImageTokenizer
from unifluid.tokenizers.gaussian import sample
from unifluid.tokenizers.patching import patchify, square_grid, unpatchify
from unifluid.weights import fit, locate, read_json, read_tensors

CONFIG, TENSORS = "config.json", "diffusion_pytorch_model.safetensors"  # what diffusers calls its files
ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
STABLE_DIFFUSION = {  # versions 1 and 2, KL-f8 (arXiv 2112.10752)
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}


class AutoencoderKL(ImageTokenizer):
    """Frozen and in fp32, whatever the precision around it. Tokens are (latents − shift) · scale, as in its config.

    A checkpoint holds config and weights: it needs neither the folder nor the hub again.

    Args:
        image_size: H = W in pixels, a multiple of the pixels a token covers.
        patch: latents a token covers, down and across.
        weights: a folder written by diffusers, or one with such a folder `vae`; a .safetensors file in the layout of
            diffusers or of the original Stable Diffusion (a whole model's too); or such a folder's name on the hub.
            None: random weights.
        config: diffusers' config; default: the config.json beside the weights, or else Stable Diffusion's. Give it for
            single files of others: SDXL's tensors have the same shapes, but its scaling_factor is 0.13025.
    """

    def __init__(
        self, image_size: int = 256, patch: int = 2, weights: str | None = None, config: dict[str, Any] | None = None
    ):
        super().__init__()
        from diffusers import AutoencoderKL as Library

        self.image_size, self.patch, self.weights = image_size, patch, weights
        config = _config(weights) if config is None else config
        self.init_args["config"] = config
        try:
            self.vae = Library.from_config(config).requires_grad_(False).eval()
        except (TypeError, ValueError) as error:
            raise ValueError(f"config of AutoencoderKL: {error}") from error
        config = self.vae.config
        if config.latents_mean is not None or config.latents_std is not None:
            raise ValueError("config of AutoencoderKL: latents_mean and latents_std are not supported")
        self.scale, self.shift = config.scaling_factor, config.shift_factor or 0.0
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.grid = square_grid(image_size, self.factor * patch)
        self.token_dim = config.latent_channels * patch**2

    def train(self, mode: bool = True) -> AutoencoderKL:
        """It is frozen: it stays in evaluation mode."""
        return super().train(False)

    def encode(self, image: Tensor) -> Tensor:
        """Images -> moments (B, 2C, h, w): mean and log-variance of the latents, before shift and scale."""
        if not len(image):  # the library cannot reshape nothing
            h, w = (side // self.factor for side in image.shape[-2:])
            return image.new_zeros(0, 2 * self.vae.config.latent_channels, h, w, dtype=torch.float32)
        with torch.autocast(image.device.type, enabled=False):
            return self.vae.encode(image.float()).latent_dist.parameters

    def tokens(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is not None:
            noise = unpatchify(noise, self.patch, self.grid)
        return patchify((sample(moments, noise) - self.shift) * self.scale, self.patch)

    def decode(self, tokens: Tensor) -> Tensor:
        if not len(tokens):
            return tokens.new_zeros(0, 3, self.image_size, self.image_size, dtype=torch.float32)
        latents = unpatchify(tokens.float(), self.patch, self.grid)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.vae.decode(latents / self.scale + self.shift).sample.clamp(-1, 1)

    def load_pretrained(self) -> None:
        """Load `weights`. Raises ValueError naming the file, and the first tensor that does not fit."""
        if self.weights is None:
            return
        path = _folder(self.weights, TENSORS)
        path = path / TENSORS if path.is_dir() else path
        tensors = read_tensors(path)
        if any(name.endswith("decoder.mid.block_1.conv1.weight") for name in tensors):  # the original layout
            from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

            tensors = convert_ldm_vae_checkpoint(tensors, self.vae.config)
        fit(self.vae, {_renamed(name): tensor for name, tensor in tensors.items()}, path)


def _config(weights: str | None) -> dict[str, Any]:
    """Of the folder that `weights` names or lies in; Stable Diffusion's where there is none."""
    if weights is None:
        return STABLE_DIFFUSION
    path = _folder(weights, CONFIG)
    if path.is_file() and not path.with_name(CONFIG).is_file():
        return STABLE_DIFFUSION
    path = path / CONFIG if path.is_dir() else path.with_name(CONFIG)
    config = read_json(path)
    kind = config.get("_class_name")
    if kind != "AutoencoderKL":
        raise ValueError(f"{path} describes {kind or 'another kind of model'}, not diffusers' AutoencoderKL")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _renamed(name: str) -> str:
    """Names of attention as they are today: the files of Stable Diffusion are older."""
    for old, new in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{old}.", f"mid_block.attentions.0.{new}.")
    return name


def _folder(weights: str, wanted: str) -> Path:
    """The file, or the folder itself or its `vae`, whichever holds `wanted`."""
    path = locate(weights, wanted, f"vae/{wanted}")
    inner = path / "vae"
    return inner if inner.is_dir() and not (path / wanted).is_file() else path
