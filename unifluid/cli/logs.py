"""A run's TensorBoard logs, begun when there is something to log."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger


class RunLogger(TensorBoardLogger):
    """Into the run's folder itself. Lightning asks for the writer, which makes a file, before a run has begun: so each
    refused one, and each that was complete, would leave a file that says nothing."""

    def __init__(self, folder: str):
        super().__init__(folder, name="", version="")

    @property
    def experiment(self) -> Any:
        return super().experiment if self._experiment is not None else Later(self)

    def begin(self) -> Any:
        return super().experiment

    def save(self) -> None:
        """Lightning asks for it before the settings are logged, and hparams.yaml is written only once."""
        if self.hparams:
            super().save()


class Later:
    """Stands for the writer of a logger, which is made when something is to be written."""

    def __init__(self, logger: RunLogger):
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger.begin(), name)

    def flush(self) -> None:
        """There is nothing yet."""
