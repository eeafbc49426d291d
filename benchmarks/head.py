"""Image heads beside a plain loop of MAR's published diffusion head: milliseconds a token, all head steps.

The reference is always MAR's loop, 100 steps, of the same sizes, precision and batch. What another head or sampler
gives is compared with a plain loop of its own, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.harness import Bench, main
from benchmarks.models import make_head
from benchmarks.textbook import DiffusionLoop, FlowLoop
from unifluid.decoding.packed import packed
from unifluid.heads import DiffusionMLP, FlowMLP
from unifluid.interfaces import ImageHead

MAR_STEPS, GUIDANCE = 100, 2.9
TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2}  # of whole trajectories
EIGHT_BITS = {"fp32": 0.2}  # an option that says it is coarser: its error is shown


@dataclass(frozen=True)
class Case:
    """A head as it is drawn with. `loop` gives the outputs that ours must equal within `tolerances`, None for none."""

    name: str
    head: Callable[..., ImageHead]
    steps: int
    loop: Callable[[ImageHead, int], Any] | None
    tolerances: dict[str, float] = field(default_factory=lambda: TOLERANCES)
    options: dict[str, Any] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp32", "bf16")
    int8: bool = False


# To measure another option of a head, add a line.
CASES = (
    Case("diffusion, 100 steps", DiffusionMLP, 100, DiffusionLoop),
    Case("diffusion, 100 steps, int8", DiffusionMLP, 100, DiffusionLoop, EIGHT_BITS, precisions=("fp32",), int8=True),
    Case("diffusion, DPM-Solver++ in 20 steps", DiffusionMLP, 20, None, options={"sampler": "dpm++"}),
    Case("flow, 25 steps", FlowMLP, 25, FlowLoop),
    Case("flow, 25 steps, int8", FlowMLP, 25, FlowLoop, EIGHT_BITS, precisions=("fp32",), int8=True),
)


def run(bench: Bench) -> None:
    batches = (1, 3) if bench.tiny else (1, 16)
    for case in CASES:
        for batch in batches:
            for precision in case.precisions:
                name = f"{case.name}, batch {batch}, {precision}"
                if bench.wants(name):
                    measure(bench, name, case, batch, precision)


def measure(bench: Bench, name: str, case: Case, batch: int, precision: str) -> None:
    steps, mar_steps = (5, 5) if bench.tiny else (case.steps, MAR_STEPS)
    head = make_head(case.head, bench.tiny, **case.options)
    mar = DiffusionLoop(head if case.loop is DiffusionLoop else make_head(DiffusionMLP, bench.tiny), mar_steps)
    same = case.loop is DiffusionLoop and steps == mar_steps  # then the reference gives what ours must
    loop = None if case.loop is None or same else case.loop(head, steps)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, batch, head.condition_dim, generator=generator)
    noise, mar_noise = (
        torch.randn(n + 1, batch, head.token_dim, generator=generator.manual_seed(1)) for n in (steps, mar_steps)
    )
    weights = torch.tensor([[GUIDANCE], [1 - GUIDANCE]]).expand(-1, batch)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), autocast, packed(head, int8=case.int8):
        bench.compare(
            name,
            ours=lambda: head.sample(z, noise, weights),
            reference=lambda: mar(z, mar_noise, weights),
            check=loop and (lambda: loop(z, noise, weights)),
            tolerance=case.loop and case.tolerances[precision],
        )


if __name__ == "__main__":
    main("head", __doc__, run)
