"""An exponential moving average of the trained weights: what is validated, sampled and scored by default.

Names: in a run that keeps an EMA a plain name (`val/caption`, `geneval/overall`) is a value of the EMA weights; a value
of the raw weights carries `_raw` on its first part (`geneval_raw/overall`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from unifluid.sharding import gathered, reshard
from unifluid.shards import local

Weights = Literal["ema", "raw"]


class EMA(L.Callback):
    """Keeps an fp32 average of the trainable weights: at .9999 a bf16 average would round every update away.

    Update n = 0, 1, … has decay min(decay, (1 + n) / (10 + n)). Validation, test and prediction run with the averaged
    weights; the raw ones are back afterwards, and in every checkpoint, whatever happens. A checkpoint holds the
    average as `checkpoint["ema"]` = {parameter name: fp32 tensor} and n as `checkpoint["ema_updates"]`. Where the model
    is sharded, so is the average: every process keeps that of its own part.

    List it before the callbacks that evaluate, so that they see the average of the step they run at.

    Args:
        decay: final decay per update (MAR: 0.9999).
        every: optimizer steps between updates.
    """

    def __init__(self, decay: float = 0.9999, every: int = 1):
        if not 0 <= decay < 1 or every < 1:
            raise ValueError(f"EMA needs 0 <= decay < 1 and every >= 1, got decay={decay}, every={every}")
        self.decay, self.every = decay, every
        self.weights: dict[str, Tensor] = {}
        self.updates = 0
        self._raw: list[Tensor] | None = None  # the raw weights, while the averaged ones are live
        self._step = 0

    @property
    def live(self) -> Weights:
        """Which weights the module holds now."""
        return "raw" if self._raw is None else "ema"

    @contextmanager
    def swapped(self, module: nn.Module, weights: Weights = "ema") -> Iterator[None]:
        """`weights` are live inside; what was live before comes back whatever happens. May be nested."""
        before = self.live
        try:
            self._make_live(module, weights)
            yield
        finally:
            self._make_live(module, before)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """One update from the live weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = [local(p).float() for p in self._parameters(module)]
        torch._foreach_lerp_([local(w) for w in self.weights.values()], live, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def _make_live(self, module: nn.Module, weights: Weights) -> None:
        if weights == self.live or not self.weights:
            return
        parameters = [local(p) for p in self._parameters(module)]
        if weights == "ema":
            self._raw = [p.detach().clone() for p in parameters]
            torch._foreach_copy_(parameters, [local(w) for w in self.weights.values()])
        else:
            torch._foreach_copy_(parameters, self._raw)
            self._raw = None

    def _parameters(self, module: nn.Module) -> list[nn.Parameter]:
        """The parameters that are averaged, in the order of `weights`."""
        reshard(module)
        parameters = dict(module.named_parameters())
        missing = [name for name in self.weights if name not in parameters]
        if missing:
            raise ValueError(f"the EMA holds {missing[0]} (and {len(missing) - 1} more), which the model lacks")
        return [parameters[name] for name in self.weights]

    # -- in the trainer -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad and p.is_floating_point()}
        if not self.weights:
            self.weights = {name: p.detach().clone().float() for name, p in trained.items()}
        if self.weights.keys() != trained.keys():
            name = min(self.weights.keys() ^ trained.keys())
            raise ValueError(f"the EMA to resume from and the trained parameters differ, first in {name}")
        self.weights = {name: value.to(trained[name].device) for name, value in self.weights.items()}
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step:  # gradients still accumulate
            return
        self._step = trainer.global_step
        if self._step % self.every == 0:
            self.update(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._make_live(pl_module, "ema")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._make_live(pl_module, "raw")

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._make_live(pl_module, "raw")

    # -- in checkpoints -----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"], checkpoint["ema_updates"] = dict(self.weights), self.updates
        if self.live == "ema":  # saved in the middle of an evaluation, by a signal or another callback
            with self.swapped(pl_module, "raw"):
                state = trainer.strategy.lightning_module_state_dict()
                checkpoint["state_dict"] = {name: value.clone() for name, value in state.items()}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if "ema" not in checkpoint and not trainer.training:
            raise ValueError(
                "the checkpoint has no EMA weights: leave the EMA callback out to evaluate its raw weights"
            )
        if "ema" not in checkpoint:
            rank_zero_warn("the checkpoint has no EMA weights: the average starts anew from its raw weights")
        self.weights, self.updates = dict(checkpoint.get("ema", {})), checkpoint.get("ema_updates", 0)
        self._raw = None


def find_ema(trainer: L.Trainer) -> EMA | None:
    """The EMA callback of this trainer, if it has one."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, EMA)), None)


@contextmanager
def live_weights(trainer: L.Trainer, module: nn.Module, weights: Weights) -> Iterator[Weights]:
    """`weights` are live inside; gives what really is live: a run that keeps no EMA has only raw weights.

    A sharded model is whole inside: all ranks must take part, but need not do the same there.
    """
    ema = find_ema(trainer)
    with nullcontext() if ema is None else ema.swapped(module, weights), gathered(module):
        yield "raw" if ema is None else ema.live
