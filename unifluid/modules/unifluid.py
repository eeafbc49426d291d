"""The LightningModule: takes the slots, builds the model, weighs the losses, optimises and logs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from unifluid import randomness
from unifluid.checkpoints import Weights
from unifluid.configs import factory_of
from unifluid.decoding.sampling import ImageSampling, check_sampling
from unifluid.init_from import start_from
from unifluid.interfaces import Backbone, ImageEncoder, ImageHead, ImageTokenizer, TextHead, TextTokenizer
from unifluid.model import TokenLosses, UniFluidModel
from unifluid.modules.base import Trainable
from unifluid.optimization import AdamW
from unifluid.packing import Collate
from unifluid.sequence import TASKS, Batch, Formatter, Order, Task, round_sizes
from unifluid.sharding import FSDP2, Skeleton, shard


class UniFluid(Trainable):
    """One transformer that draws and describes: L = L_visual + λ · L_text (arXiv 2503.13436).

    L_visual is the mean over the step's image tokens and their noise copies; L_text the mean over each example's text
    tokens, then over the step's text examples.

    Args:
        backbone: factory (vocab_size) -> Backbone.
        text_tokenizer, image_tokenizer, image_encoder, text_head: the slots (`interfaces`).
        image_head: factory (token_dim, condition_dim) -> ImageHead.
        optimization: optimiser and schedule.
        lam: λ, the weight of the text loss (paper: 0.005).
        copies: noise copies of every image token (MAR's diffusion_batch_mul).
        order: order of image tokens in training: random (paper) or raster.
        rounds: numbers of rounds an image is drawn in, of which each image in training takes one: fewer than its tokens
            draw several at once, which see those of earlier rounds alone. Left out, a token at a time. An order that
            keeps them apart, random or a permutation, loses less than raster (experiments/studies/rounds.yaml).
        errors: largest size of Gaussian errors on the image tokens that are read in training, whose size is drawn for
            each image: drawn tokens are never exact, and later ones should bear it (NextStep-1, arXiv 2508.10711).
        prompt_dropout, source_dropout: chance that the prompt or instruction, or an edit's source image, is left out,
            for classifier-free guidance (**assumed** 0.1).
        row_length: positions of a packed row; up to half as many more where that leaves less padding, and as many as
            the longest example has.
        max_prefix, max_suffix: text ids kept of a prefix and of an answer.
        position_scale: initial size of the 2-D position embeddings (**assumed**), beside tokens of unit size.
        feature_scale: initial size of the image encoder's projected features, where it gives unit size. Trained from
            scratch, small models read pictures much sooner at 2 than at .6 (experiments/NOTES.md); PaliGemma has 0.
        token_scale: initial size of projected image tokens and of the embedding that begins an image. A language model
            whose text embeddings are small (SmolLM2: .11) wants all three near their size.
        prefix: bidirectional (the paper): its positions see all of it; or causal: those before them only, as when a
            language model was trained, which then reads text as well as ever.
        frozen: regular expression on parameter names, as in `optimization.rates`: what it matches is not trained,
            with no gradient, optimizer state or average; rates have no effect on it. "^image_encoder" freezes that
            slot, "^(backbone|image_encoder)" leaves the new parts to train. The image tokenizer is frozen always.
        compile: torch.compile the backbone and the image head's loss; decoding runs as it is.
        sampling: settings of `decoding.ImageSampling` that suit the model: what `generate`, `edit`, `serve` and a
            `Pipeline` draw with unless told otherwise. Exported with it.
        seed: of every draw in training and of the initial weights, but for those of parts that come built: the image
            encoder has drawn its own already. The command line seeds all of them alike; in Python, seed torch before.
        init_from: checkpoint, exported folder or PaliGemma folder (`paligemma`) whose weights to start from; missing
            and extra names are reported, and a part of another class that they do not fit begins anew.
        init_weights: which of its weights, ema or raw; default: the EMA where there is one.
    """

    def __init__(
        self,
        backbone: Callable[[int], Backbone],
        text_tokenizer: TextTokenizer,
        image_tokenizer: ImageTokenizer,
        image_encoder: ImageEncoder,
        image_head: Callable[[int, int], ImageHead],
        text_head: TextHead,
        optimization: AdamW,
        lam: float = 0.005,
        copies: int = 4,
        order: Order = "random",
        rounds: list[int] | None = None,
        errors: float = 0.0,
        prompt_dropout: float = 0.1,
        source_dropout: float = 0.1,
        row_length: int = 512,
        max_prefix: int = 128,
        max_suffix: int = 128,
        position_scale: float = 0.5,
        feature_scale: float = 1.0,
        token_scale: float = 1.0,
        prefix: Literal["bidirectional", "causal"] = "bidirectional",
        frozen: str | None = None,
        compile: bool = False,
        sampling: dict[str, Any] | None = None,
        seed: int = 0,
        init_from: str | None = None,
        init_weights: Weights | None = None,
    ):
        super().__init__()
        if min(copies, row_length, max_prefix, max_suffix) < 1:
            raise ValueError("copies, row_length, max_prefix and max_suffix must be at least 1")
        if not min(position_scale, feature_scale, token_scale) >= 0:
            raise ValueError("position_scale, feature_scale and token_scale are sizes, at least 0")
        if not (0 <= errors < math.inf and 0 <= lam < math.inf):
            raise ValueError(f"errors and lam must be finite and not negative, got {errors} and {lam}")
        if not (0 <= prompt_dropout <= 1 and 0 <= source_dropout <= 1):
            raise ValueError(f"prompt_dropout and source_dropout are chances, got {prompt_dropout}, {source_dropout}")
        if prefix not in ("bidirectional", "causal"):
            raise ValueError(f"prefix must be bidirectional or causal, got {prefix!r}")
        for n in rounds or ():
            round_sizes(image_tokenizer.num_tokens, n)  # checks it
        self.backbone_factory, self.image_head_factory = backbone, image_head
        self.text_tokenizer, self.optimization = text_tokenizer, optimization
        self.parts = {"text_head": text_head, "image_encoder": image_encoder, "image_tokenizer": image_tokenizer}
        self.sampling = sampling or {}
        self.lam, self.copies, self.errors, self.seed = lam, copies, errors, seed
        self.scales = {"position_scale": position_scale, "feature_scale": feature_scale, "token_scale": token_scale}
        self.row_length, self.frozen, self.compile_model = row_length, frozen, compile
        self.init_from, self.init_weights = init_from, init_weights
        self.formatter = Formatter(
            text_tokenizer,
            target_size=image_tokenizer.image_size,
            num_target_tokens=image_tokenizer.num_tokens,
            image_size=image_encoder.image_size,
            num_image_tokens=image_encoder.num_tokens,
            seed=seed,
            order=order,
            rounds=tuple(rounds or ()),
            max_prefix=max_prefix,
            max_suffix=max_suffix,
            prompt_dropout=prompt_dropout,
            source_dropout=source_dropout,
            causal_prefix=prefix == "causal",
        )
        self.model: UniFluidModel | None = None

    # -- building -----------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Build the model once; the initial weights of what is built here depend on `seed` alone."""
        if self.model is not None:
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            backbone = self.backbone_factory(self.text_tokenizer.vocab_size)
            head = self.image_head_factory(self.parts["image_tokenizer"].token_dim, backbone.width)
            self.model = UniFluidModel(backbone, image_head=head, **self.scales, **self.parts)
        # Recorded as factories of known classes and arguments, so that a checkpoint can name them.
        self.init_args |= {"backbone": factory_of(backbone, 1), "image_head": factory_of(head, 2)}
        if self.frozen is not None:
            self.model.freeze(self.frozen)
        if self._trainer is not None:
            sampling = ImageSampling.from_settings(self.sampling, "model.sampling")
            if sampling.int8:
                raise ValueError("model.sampling.int8: 8 bits suit a machine, not a model: give --int8 when drawing")
            check_sampling(sampling, self.model, self.formatter, "model.sampling")
        # Only a fresh run reads files of weights. (trainer.fit(ckpt_path=…) sets ckpt_path later than this, so it reads
        # them in vain; the command line sets trainer.ckpt_path.)
        if self._trainer is not None and self.trainer.ckpt_path is None:
            for part in self.model.slots():
                part.load_pretrained()
            self.model.backbone.check_tokenizer(self.text_tokenizer)
            if self.init_from is not None:
                start_from(self, self.init_from, self.init_weights)
        if self.device_mesh is not None:
            self._shard()
        elif self.compile_model:
            self.model.backbone.compile()
            head = self.model.image_head  # called by its `loss`, which nn.Module.compile would leave alone
            head.loss = torch.compile(head.loss)

    def _shard(self) -> None:
        if not isinstance(self.trainer.strategy, FSDP2):
            raise ValueError("trainer.strategy: to shard a model, give {class_path: unifluid.sharding.FSDP2}")
        self.skeleton = Skeleton(self.model)
        if self.compile_model:  # a layer at a time: gathering comes between them
            for layer in self.model.layers():
                layer.compile()
        shard(self.model, self.trainer.strategy.mesh, self.trainer.precision)

    @property
    def image_tokenizer(self) -> ImageTokenizer:
        """As trained with: for data that stores what it made of pictures."""
        return self.model.image_tokenizer

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimization.configure(self.model.named_parameters(), self.trainer.max_steps)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """A part that draws from the global generator, as dropout does, draws a function of the step as well."""
        seed = randomness.derive(self.seed, "global", self.global_rank, self.global_step, batch_idx)
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":  # torch.manual_seed would go through every kind of device there might be
            torch.get_device_module(self.device).manual_seed(seed)

    # -- data ---------------------------------------------------------------------------------------------------

    def collator(self, text_rows: int | None = None, image_rows: int | None = None, training: bool = True) -> Collate:
        """What turns (global row, example) pairs into a batch; the counts are those of a whole optimizer step."""
        formatter = self.formatter
        if not training:
            formatter = dataclasses.replace(formatter, prompt_dropout=0.0, source_dropout=0.0)
        return Collate(formatter, self.row_length, text_rows, image_rows)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    # -- losses -------------------------------------------------------------------------------------------------

    def token_losses(self, batch: Batch, purpose: str) -> TokenLosses:
        """Losses of `batch`, every draw a function of (seed, purpose, global row). Only training reads with errors."""
        tokenizer, n = self.model.image_tokenizer, self.model.image_tokenizer.num_tokens
        normal = self._draw(randomness.normal, batch, purpose, 2 + self.copies, n, tokenizer.token_dim)
        latent, error, noise = normal[:, 0], normal[:, 1], normal[:, 2:]
        times, size = self._draw(randomness.uniform, batch, purpose, n + 1).split([n, 1], dim=1)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            moments = tokenizer.encode(batch.targets)
            if batch.moments is not None:
                moments = torch.cat([moments, batch.moments.to(moments.dtype)])
            tokens = tokenizer.tokens(moments, latent)
        # The copies' times are spread evenly, so that their mean is less noisy (Kingma et al., 2107.00630).
        u = (times[:, None] + torch.arange(self.copies, device=self.device)[:, None] / self.copies) % 1
        errors = self.errors * size[..., None] * error if self.errors and purpose == "train" else None
        return self.model(batch, tokens, u, noise, errors)

    def _draw(self, kind: Callable[..., Tensor], batch: Batch, purpose: str, *shape: int) -> Tensor:
        return kind(self.seed, batch.target_rows, f"{purpose}/{kind.__name__}", *shape, device=self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self.token_losses(batch, "train")
        # Lightning averages over accumulated batches and DDP over ranks; the counts here are those of the whole step.
        parts = self.trainer.accumulate_grad_batches * self.trainer.world_size
        text = (losses.text * batch.label_weight).sum() * parts / max(batch.text_rows_in_step, 1)
        visual = losses.image.mean((1, 2)).sum() * parts / max(batch.image_rows_in_step, 1)
        self.log_step({"train/text": text, "train/visual": visual}, batch_idx)
        if self.is_logged():
            self._log_tasks(losses, batch, *self.ends_of_step(batch_idx))
        return visual + self.lam * text

    def _log_tasks(self, losses: TokenLosses, batch: Batch, first: bool, last: bool) -> None:
        """Log mean losses by task of a whole optimizer step, over accumulated batches and ranks, at its last batch."""
        if first:
            self.step_totals = torch.zeros(len(TASKS), 2, device=self.device)
        for task, total, count in self._task_losses(losses, batch):
            self.step_totals[TASKS.index(task)] += torch.stack([total, total.new_tensor(count)])
        if last:
            self._log_means("train", self.step_totals)

    def _log_means(self, prefix: str, totals: Tensor) -> None:
        """Mean losses by task, from sums and counts of all ranks, of which one may have had none of some task."""
        totals = self.trainer.strategy.reduce(totals.to(self.device, torch.float32), reduce_op="sum")
        for task, (total, n) in zip(TASKS, totals.tolist(), strict=True):
            if n:
                self.log(f"{prefix}/{task}", total / n)

    def _task_losses(self, losses: TokenLosses, batch: Batch) -> Iterator[tuple[Task, Tensor, int]]:
        """For each task in this batch the sum of its examples' losses, and how many they are."""
        weighted = losses.text.detach() * batch.label_weight
        text = weighted.new_zeros(len(batch.text_tasks)).index_add(0, batch.label_example, weighted)
        image = losses.image.detach().mean((1, 2))
        for per_example, tasks in ((text, batch.text_tasks), (image, batch.target_tasks)):
            for task in dict.fromkeys(tasks):
                chosen = [i for i, t in enumerate(tasks) if t == task]
                yield task, per_example[torch.tensor(chosen, device=per_example.device)].sum(), len(chosen)

    def on_validation_epoch_start(self) -> None:
        self.totals = torch.zeros(len(TASKS), 2, dtype=torch.float64)  # of losses, of examples

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Losses on the same times, noise and orders every time."""
        for task, total, n in self._task_losses(self.token_losses(batch, "val"), batch):
            self.totals[TASKS.index(task)] += torch.tensor([total.item(), n], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        self._log_means("val", self.totals)

    # the same figures, under the same names, with the scores of the callbacks
    on_test_epoch_start, test_step = on_validation_epoch_start, validation_step
    on_test_epoch_end = on_validation_epoch_end
