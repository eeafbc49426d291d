"""What all LightningModules of the kit share: optimisation by a slot, and checkpoints that rebuild them."""

from __future__ import annotations

from typing import Any

import lightning as L

from unifluid.checkpoints import pack_model, read_tokenizer, unpack_model
from unifluid.configs import describe
from unifluid.interfaces import Recorded, TextTokenizer
from unifluid.optimization import AdamW


class Trainable(Recorded, L.LightningModule):
    """A LightningModule whose checkpoints name its class and arguments as plain data (`configs.describe`)."""

    optimization: AdamW
    text_tokenizer: TextTokenizer | None = None  # goes into the checkpoint, where there is one

    def configure_optimizers(self) -> dict[str, Any]:
        return self.optimization.configure(self.named_parameters(), self.trainer.max_steps)

    def on_fit_start(self) -> None:
        describe(self)  # what a checkpoint cannot store should stop the run now, not at the first save

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
