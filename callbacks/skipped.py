"""What training left out of its data: by stream and reason, at the end of every epoch."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from callbacks.throughput import log
from datamodules.base import Source
from datamodules.formats.skipping import counted
from datamodules.mixture import Mixture


class SkippedRows(L.Callback):
    """Logs data/skipped/STREAM, rows found bad so far, and data/skipped/STREAM/REASON; and says so in a line.

    Each rank finds what is bad among its own rows. At the end of an epoch all learn of each other's, so that a row is
    counted once, and its picture is not opened again.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data = trainer.datamodule
        if not isinstance(data, Mixture):
            raise ValueError("callbacks.SkippedRows needs the streams of datamodules.Mixture")
        for name, stream in data.streams.items():
            for source in stream.dataset.sources:
                self._gather(trainer, pl_module, source)
                skipped = source.skipped
                values = {f"data/skipped/{name}/{reason}": count for reason, count in skipped.items()}
                log(trainer, {f"data/skipped/{name}": skipped.total(), **values}, trainer.global_step)
                if skipped:
                    rank_zero_info(f"{name}: {skipped.total():,} of {source.total:,} rows skipped ({counted(skipped)})")

    def _gather(self, trainer: L.Trainer, module: L.LightningModule, source: Source) -> None:
        """What any rank has found, known to all. A row that is bad is bad for the same reason everywhere."""
        source.found.copy_(trainer.strategy.reduce(source.found.to(module.device), reduce_op="max"))
