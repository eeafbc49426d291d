"""A training step on the default mixtures beside a naive one: padded rows, logits everywhere, plain AdamW.

Both have the same model, examples and draws, and their losses are compared. Memory is the peak of a process of its own
beyond what it held before its first step.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks.harness import Bench, main
from benchmarks.steps import MIXTURES, build, mixed, packed, side
from benchmarks.timing import agree, clocked, interleaved
from callbacks import EMA, NonFiniteGuard, Throughput, TrainSeconds
from datamodules.mixture import Mixture
from unifluid.modules.unifluid import UniFluid


def memory_of_steps(mixture: str, naive: bool, tiny: bool) -> float | None:
    """MiB that two steps take at most beyond what is held before; run in a process of its own, on Linux only."""
    made = side(mixture, naive, tiny)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far, that of imports, is forgotten
    except OSError:
        return None
    before = status("VmRSS")
    made.step()
    made.step()
    return round((status("VmHWM") - before) / 1024, 1)


def status(key: str) -> int:
    """KiB of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measured_apart(mixture: str, naive: bool, tiny: bool) -> float | None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(memory_of_steps, mixture, naive, tiny).result()


def run(bench: Bench) -> None:
    for mixture in MIXTURES if not bench.tiny else ["demo"]:
        if bench.wants(name := f"step, {mixture}"):
            steps(bench, name, mixture)
    if bench.wants(name := "step in fit: callbacks and logging, beside none"):
        with TemporaryDirectory() as folder:
            module, data = build("demo", bench.tiny)
            fits = {
                "ours": lambda: fit(module, data, folder, True),
                "reference": lambda: fit(module, data, folder, False),
            }
            bench.add(name, interleaved(fits, bench.repeats))


def steps(bench: Bench, name: str, mixture: str) -> None:
    bench.say(f"{name} …")
    ours, naive = side(mixture, False, bench.tiny), side(mixture, True, bench.tiny)
    with torch.no_grad():
        error = agree(f"{bench.name}, {name}", ours.losses(), naive.losses(), 1e-4)
    ema = EMA(0.999)
    ema.on_train_start(SimpleNamespace(global_step=0), ours.module)
    for work in (ours.step, naive.step):
        work()
    work = {"ours": ours.step, "reference": naive.step, "ema": lambda: ema.update(ours.module)}
    seconds = interleaved({key: clocked(f) for key, f in work.items()}, bench.repeats)
    tokens = int((ours.batch.layout.segments > 0).sum())
    more = {"precision": "bf16-mixed" if mixed() else "fp32", "padding": ours.batch.padding}
    more |= {"reference_padding": naive.batch.padding}
    more |= {"tokens_per_s": round(tokens / sorted(seconds["ours"])[bench.repeats // 2])}
    if not bench.tiny:
        more |= {f"{s}memory_mib": measured_apart(mixture, s != "", bench.tiny) for s in ("", "reference_")}
    ema_seconds = {"ours": seconds.pop("ema")}
    row = bench.add(name, seconds, error, **more)
    other = bench.add(f"EMA update, {mixture}", ema_seconds)
    bench.more(other, share_of_step=round(other["ours_ms"] / row["ours_ms"], 4))
    case = f"drawing and packing a step's rows, {mixture}"
    drawn = bench.compare(case, lambda: packed(ours.module, ours.data) and None)
    bench.more(drawn, share_of_step=round(drawn["ours_ms"] / row["ours_ms"], 4))


def fit(module: UniFluid, data: Mixture, folder: str, full: bool, n: int = 6) -> float:
    """Seconds a step in Lightning's fit, the first left out. In a `full` one each step is logged and averaged."""
    clock = Clock()
    kept = [EMA(0.999), NonFiniteGuard(), Throughput(every=n - 1), TrainSeconds()] if full else []
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=n,
        precision="bf16-mixed" if mixed() else "32-true",
        gradient_clip_val=1.0,
        callbacks=[*kept, clock],
        logger=TensorBoardLogger(folder) if full else False,
        log_every_n_steps=n - 1 if full else 0,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    trainer.fit(module, data)
    return (clock.stamps[-1] - clock.stamps[0]) / (len(clock.stamps) - 1)


class Clock(L.Callback):
    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_batch_end(self, *_: object) -> None:
        self.stamps.append(time.perf_counter())


if __name__ == "__main__":
    main("train", __doc__, run)
