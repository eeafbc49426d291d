"""What all LightningModules of the kit share: optimisation by a slot, and checkpoints that rebuild them."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from unifluid.checkpoints import pack_model, read_tokenizer, unpack_model
from unifluid.configs import describe
from unifluid.interfaces import Recorded, TextTokenizer
from unifluid.optimization import AdamW, learning_rates


class Trainable(Recorded, L.LightningModule):
    """A LightningModule whose checkpoints name its class and arguments as plain data (`configs.describe`)."""

    optimization: AdamW
    text_tokenizer: TextTokenizer | None = None  # goes into the checkpoint, where there is one

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimization.configure(self.named_parameters(), self.trainer.max_steps)

    def on_fit_start(self) -> None:
        describe(self)  # what a checkpoint cannot store should stop the run now, not at the first save

    # -- logs ---------------------------------------------------------------------------------------------------

    def ends_of_step(self, batch_idx: int) -> tuple[bool, bool]:
        """Whether this batch is the first, and the last, of those that make up an optimizer step."""
        n = self.trainer.accumulate_grad_batches
        return batch_idx % n == 0, (batch_idx + 1) % n == 0 or self.trainer.is_last_batch

    def log_step(self, values: dict[str, Tensor], batch_idx: int) -> None:
        """Log what a batch has of each of the `values`: the mean over the step's batches and ranks, at the last one."""
        first, last = self.ends_of_step(batch_idx)
        shares = {name: value.detach() / self.trainer.accumulate_grad_batches for name, value in values.items()}
        self.step_means = shares if first else {name: self.step_means[name] + share for name, share in shares.items()}
        if last:
            self.log_dict(self.step_means, prog_bar=True, sync_dist=True)

    def is_logged(self) -> bool:
        """Whether the logger will see this step: `log` takes its time also where it does not."""
        every = self.trainer.log_every_n_steps
        return bool(every) and (self.global_step + 1) % every == 0

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if self.is_logged():
            self.log_dict(learning_rates(optimizer))

    # -- checkpoints --------------------------------------------------------------------------------------------

    def restore_tokenizer(self) -> None:
        """The vocabulary of the checkpoint that this run goes on or starts from, before data would train another."""
        path = self.trainer.ckpt_path or getattr(self, "init_from", None)
        state = None if path is None else read_tokenizer(path)
        if state is not None:
            self.text_tokenizer.load_state(state)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        pack_model(checkpoint, self, self.text_tokenizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        evaluating = self._trainer is not None and not self.trainer.training
        unpack_model(checkpoint, self, self.text_tokenizer, parts_only=evaluating)
