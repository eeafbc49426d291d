"""LightningModules: the unified model, and the autoencoder and contrastive encoder trained beside it."""

from unifluid.modules.autoencoder import AutoencoderModule
from unifluid.modules.contrastive import ContrastiveModule
from unifluid.modules.unifluid import UniFluid

__all__ = ["AutoencoderModule", "ContrastiveModule", "UniFluid"]
