"""Settings of Lightning's Trainer: those the kit cannot work with are refused before anything starts."""

from __future__ import annotations

from typing import Any

PRECISIONS = {
    "16-true": "rounds updates away",
    "bf16-true": "rounds updates away",
    "64-true": "is not what draws and losses are computed in",
    "64": "is not what draws and losses are computed in",
    "transformer-engine": "is not supported",
    "transformer-engine-float16": "is not supported",
}


def check(command: str, trainer: dict[str, Any]) -> None:
    """Raises ValueError naming the first of the `trainer`'s settings that cannot work; warns of what is only slow."""
    precision = str(trainer["precision"])
    if precision in PRECISIONS:
        raise ValueError(f"trainer.precision {precision} {PRECISIONS[precision]}: give bf16-mixed or 32-true")
    if trainer["barebones"]:
        raise ValueError("trainer.barebones leaves out the checkpoints and logs that make up a run: leave it out")
    interval = trainer["val_check_interval"]
    if isinstance(interval, int | float) and interval <= 0:
        raise ValueError(
            f"trainer.val_check_interval is a number of steps or a share of an epoch, above 0; got {interval}: "
            "trainer.limit_val_batches 0 leaves validation out"
        )
    if command == "fit" and trainer["limit_train_batches"] == 0:
        raise ValueError("trainer.limit_train_batches 0 trains nothing: leave it out")
    if trainer["accumulate_grad_batches"] < 1:
        raise ValueError(
            f"trainer.accumulate_grad_batches must be at least 1, got {trainer['accumulate_grad_batches']}"
        )


def callbacks_of(trainer: dict[str, Any]) -> list[Any]:
    """The trainer takes one callback as well as a list."""
    callbacks = trainer["callbacks"] or []
    return callbacks if isinstance(callbacks, list) else [callbacks]
