"""The LightningModule that trains a continuous image tokenizer, before the model that draws with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unifluid import randomness
from unifluid.interfaces import TrainableImageTokenizer
from unifluid.modules.base import Trainable
from unifluid.optimization import AdamW
from unifluid.sequence import Batch, Example, to_unit

ERRORS = 0.2  # size of the errors in tokens that validation asks the decoder to bear: about those of generated ones


class AutoencoderModule(Trainable):
    """Reconstruction with a small KL penalty (arXiv 2112.10752, without its perceptual and adversarial terms).

    The reconstruction error is each picture's root mean square, averaged over pictures: where much of a picture is
    flat, the mean square soon stops pulling at the few pixels that are still wrong.

    Args:
        tokenizer: what is trained.
        optimization: optimiser and schedule.
        kl_weight: weight of the KL divergence from the standard normal, mean over latents, in nats. It decides how much
            noise the latents carry, and so how smooth they are for a generative head.
        errors: largest size of Gaussian errors added to the tokens, which have unit size, before they are decoded; the
            size is drawn for each picture. The decoder learns to mend what a generative head gets slightly wrong, the
            encoder to keep pictures apart (l-DeTok, arXiv 2507.15856).
        seed: of every draw in training.
    """

    def __init__(
        self,
        tokenizer: TrainableImageTokenizer,
        optimization: AdamW,
        kl_weight: float = 2e-3,
        errors: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        self.tokenizer, self.optimization = tokenizer, optimization
        self.kl_weight, self.errors, self.seed = kl_weight, errors, seed

    def configure_model(self) -> None:
        """A fresh run starts from the tokenizer's pretrained weights, if it names any."""
        if self._trainer is not None and self.trainer.ckpt_path is None:
            self.tokenizer.load_pretrained()

    @property
    def image_tokenizer(self) -> TrainableImageTokenizer:
        """For data that stores what an image tokenizer made of pictures: it will refuse to train one."""
        return self.tokenizer

    # -- data -------------------------------------------------------------------------------------------------------

    def collator(self, text_rows: int | None = None, image_rows: int | None = None, training: bool = True) -> Pictures:
        """For the kit's data modules: every picture of every example, looked at or drawn."""
        return Pictures(self.tokenizer.image_size)

    # -- losses -----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        image = pictures(batch)
        step = self.global_step, batch_idx
        sizes = self.errors * self._drawn(torch.rand, image, (1, 1), "sizes", *step)
        errors = sizes * self._noise(image, "errors", *step)
        reconstruction, moments = self.tokenizer(image, self._noise(image, "latent", *step), errors)
        error = (reconstruction - image).square().mean((1, 2, 3))
        kl = kl_divergence(moments)
        self.log_step({"train/psnr": psnr(error.detach()).mean(), "train/kl": kl}, batch_idx)
        return (error + 1e-4).sqrt().mean() + self.kl_weight * kl

    def validation_step(self, batch: Batch | Tensor, batch_idx: int) -> None:
        """PSNR through tokens, as the generative model will use them: exact, and with errors of `ERRORS`."""
        image = pictures(batch)
        tokens = self.tokenizer.tokens(self.tokenizer.encode(image))
        noise = ERRORS * self._noise(image, "validation", batch_idx)
        for name, value in {"val/psnr": tokens, "val/psnr_noisy": tokens + noise}.items():
            error = (self.tokenizer.decode(value) - image).square().mean((1, 2, 3))
            self.log(name, psnr(error).mean(), batch_size=len(image), prog_bar=True, sync_dist=True)

    test_step = validation_step

    def _noise(self, image: Tensor, *key: int | str) -> Tensor:
        """Standard normal, (B, N, d)."""
        return self._drawn(torch.randn, image, (self.tokenizer.num_tokens, self.tokenizer.token_dim), *key)

    def _drawn(self, draw: Callable[..., Tensor], image: Tensor, shape: tuple[int, int], *key: int | str) -> Tensor:
        generator = randomness.generator(self.seed, *key, self.global_rank)
        return draw((len(image), *shape), generator=generator).to(image.device)


@dataclass
class Pictures:
    """(global row, example) pairs -> the pictures (B, 3, H, W) in [-1, 1] of all examples. Picklable."""

    size: int

    def __call__(self, rows: list[tuple[int, Example]]) -> Tensor:
        found = [p for _, example in rows for p in (*example.images, example.target) if p is not None]
        return torch.stack([to_unit(picture, self.size) for picture in found])


def pictures(batch: Batch | Tensor) -> Tensor:
    """The pictures of a batch (B, 3, H, W): itself, or those that `Batch` is to draw."""
    return batch.targets if isinstance(batch, Batch) else batch


def kl_divergence(moments: Tensor) -> Tensor:
    """KL(N(mean, σ²) ‖ N(0, 1)) in nats, mean over latents, of moments (B, 2C, ...) = mean and log σ²."""
    mean, log_variance = moments.chunk(2, dim=1)
    log_variance = log_variance.clamp(-30, 20)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def psnr(error: Tensor) -> Tensor:
    """PSNR in dB (B,) of pictures in [-1, 1] with mean square errors (B,)."""
    return 10 * torch.log10(4 / error.clamp(min=1e-10))
