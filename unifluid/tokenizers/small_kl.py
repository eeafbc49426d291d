"""A small convolutional KL autoencoder, for continuous tokens that can be trained in minutes.

Latents carry the posterior mean and log-variance of a diagonal Gaussian, as in the Stable Diffusion autoencoder
(arXiv 2112.10752); patches of latents are the tokens. Shapes: C latent channels, h × w latents, W `channels`.
"""

from __future__ import annotations

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from unifluid.interfaces import TrainableImageTokenizer
from unifluid.layers import Conv
from unifluid.tokenizers.gaussian import sample
from unifluid.tokenizers.patching import patchify, square_grid, unpatchify
from unifluid.weights import fit, read_part

MOMENTUM = 0.01  # of the running statistics of latents
PREFIXES = ("", "tokenizer.", "model.image_tokenizer.")  # where a file may keep the weights


class SmallKL(TrainableImageTokenizer):
    """Most of the work is done at the latents' resolution; pixels are only unshuffled on the way in, shuffled out.

    The encoder sees one token's pixels at a time, the decoder all tokens: equal patches have equal tokens whatever is
    beside them, which makes them far easier to draw one after another (experiments/NOTES.md).

    Tokens have unit size: latents are normalised per channel by their running mean and variance in training, which are
    buffers. Encoding and decoding run in fp32, whatever the precision around them.

    Args:
        image_size: H = W in pixels, a multiple of `factor` · `patch`.
        channels: W, width at the latents' resolution; half of it at twice the resolution.
        encoder_depth, decoder_depth: residual blocks at the latents' resolution.
        output_depth: residual blocks of the decoder at twice the resolution.
        latent_channels: C; tokens have C·patch² channels.
        factor: pixels a latent covers, down and across; even.
        patch: latents a token covers, down and across.
        weights: checkpoint of `AutoencoderModule` (or of a model that contains this part), or .safetensors.
    """

    def __init__(
        self,
        image_size: int = 32,
        channels: int = 64,
        encoder_depth: int = 2,
        decoder_depth: int = 3,
        output_depth: int = 1,
        latent_channels: int = 4,
        factor: int = 4,
        patch: int = 2,
        weights: str | None = None,
    ):
        super().__init__()
        if factor < 2 or factor % 2 or channels % 2:
            raise ValueError(f"factor {factor} and channels {channels} must be even")
        self.image_size, self.patch, self.weights = image_size, patch, weights
        self.grid = square_grid(image_size, factor * patch)
        self.token_dim = latent_channels * patch**2
        half = channels // 2
        self.encoder = nn.Sequential(
            Rearrange("b c (i h p) (j w q) -> (b i j) (c p q) h w", h=patch, w=patch, p=factor, q=factor),
            Conv(3 * factor**2, channels),
            *(Block(channels) for _ in range(encoder_depth)),
            Conv(channels, 2 * latent_channels),
            Rearrange("(b i j) c h w -> b c (i h) (j w)", i=self.grid[0], j=self.grid[1]),
        )
        self.decoder = nn.Sequential(
            Conv(latent_channels, channels),
            *(Block(channels) for _ in range(decoder_depth)),
            Conv(channels, 4 * half, kernel=1),
            nn.PixelShuffle(2),
            *(Block(half) for _ in range(output_depth)),
            nn.SiLU(),
            Conv(half, 3 * (factor // 2) ** 2),
            nn.PixelShuffle(factor // 2),
        )
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1, 1))
        self.register_buffer("latent_variance", torch.ones(latent_channels, 1, 1))

    # -- the image tokenizer ----------------------------------------------------------------------------------------

    def encode(self, image: Tensor) -> Tensor:
        """Images -> moments (B, 2C, h, w): posterior mean and log-variance of the latents."""
        with torch.autocast(image.device.type, enabled=False):
            return self.encoder(image.float())

    def tokens(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is not None:
            noise = unpatchify(noise, self.patch, self.grid)
        latents = sample(moments, noise)
        return patchify((latents - self.latent_mean) / self.latent_variance.sqrt(), self.patch)

    def decode(self, tokens: Tensor) -> Tensor:
        latents = unpatchify(tokens.float(), self.patch, self.grid)
        with torch.autocast(tokens.device.type, enabled=False):
            return self.decoder(latents * self.latent_variance.sqrt() + self.latent_mean).clamp(-1, 1)

    # -- training ---------------------------------------------------------------------------------------------------

    def forward(self, image: Tensor, noise: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        moments = self.encoder(image).float()
        latents = sample(moments, unpatchify(noise, self.patch, self.grid))
        if self.training:
            self._track(latents.detach())
        latents = latents + unpatchify(errors, self.patch, self.grid) * self.latent_variance.sqrt()
        return self.decoder(latents).float(), moments

    def _track(self, latents: Tensor) -> None:
        """Running statistics, so that every checkpoint holds those of its own weights."""
        variance, mean = torch.var_mean(latents, dim=(0, 2, 3))
        self.latent_mean.lerp_(mean[:, None, None], MOMENTUM)
        self.latent_variance.lerp_(variance[:, None, None], MOMENTUM)

    # -- weights ----------------------------------------------------------------------------------------------------

    def load_pretrained(self) -> None:
        """Load `weights`. Raises ValueError naming the file, and the first tensor that does not fit."""
        if self.weights is not None:
            fit(self, read_part(self.weights, "SmallKL", PREFIXES, "latent_mean"), self.weights)


class Block(nn.Module):
    """x + conv(SiLU(conv(x))), the identity at the start. Without a norm it learns faster and runs faster."""

    def __init__(self, channels: int):
        super().__init__()
        self.inner, self.outer = Conv(channels, channels), Conv(channels, channels)
        nn.init.zeros_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.silu(self.inner(x)))
