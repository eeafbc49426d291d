"""A training step on the default mixtures beside a naive one: padded rows, logits everywhere, plain AdamW.

Both have the same model, examples and draws, and their losses are compared. Memory is the peak of a process of its own
beyond what it held before its first step.
"""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.optim import Optimizer

from benchmarks.harness import Bench, agree, clocked, interleaved, main
from benchmarks.models import filled
from benchmarks.naive import DenseModel, one_a_row
from callbacks import EMA, NonFiniteGuard, Throughput, TrainSeconds
from callbacks.throughput import peak_memory
from datamodules.mixture import MixedRows, Mixture
from unifluid.cli.parts import instantiate
from unifluid.cli.trainer import settings
from unifluid.modules.unifluid import UniFluid
from unifluid.precision import fast_bf16
from unifluid.sequence import TEXT_TASKS, Batch

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
MIXTURES = {"demo": ["demo"], "shapes": ["demo", "shapes"]}
TINY = {"width": 32, "depth": 1, "heads": 2}


@dataclass
class Side:
    """A module with its optimizer, its data and a batch: ours, or the naive one."""

    module: UniFluid
    optimizer: Optimizer
    batch: Batch
    data: Mixture | None = None

    def losses(self) -> Tensor:
        """Of text and of images (2,), as the module weighs them."""
        losses, batch = self.module.token_losses(self.batch, "train"), self.batch
        text = (losses.text * batch.label_weight).sum() / max(batch.text_rows_in_step, 1)
        return torch.stack([self.module.lam * text, losses.image.mean((1, 2)).sum() / max(batch.image_rows_in_step, 1)])

    def step(self) -> None:
        with torch.autocast(self.batch.text_ids.device.type, torch.bfloat16, enabled=mixed()):
            loss = self.losses().sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def mixed() -> bool:
    return fast_bf16(torch.device("cpu"))


def build(mixture: str, tiny: bool) -> tuple[UniFluid, Mixture]:
    """Module and data of an experiment, the tokenizer trained; weights of files are not read."""
    config = settings([f"--config={EXPERIMENTS / name}.yaml" for name in MIXTURES[mixture]])
    if tiny:
        config["model"]["init_args"]["backbone"]["init_args"] |= TINY
        for stream in config["data"]["init_args"]["streams"].values():
            stream["rows"] = 2
    data = instantiate(L.LightningDataModule, "data", config["data"])
    module = instantiate(L.LightningModule, "model", config["model"])
    share = 300 if tiny else 2000
    texts = [t for s in data.streams.values() for t, _ in zip(s.dataset.texts(), range(share), strict=False)]
    module.text_tokenizer.train(texts)
    module.configure_model()
    filled(module.model)
    return module.train(), data


def rows_of(data: Mixture) -> list:
    rows = MixedRows(data.streams, data.counts, data.seed)
    return [rows[i] for i in range(rows.rows_per_step)]


def packed(module: UniFluid, data: Mixture) -> Batch:
    rows = rows_of(data)
    text = sum(example.task in TEXT_TASKS for _, example in rows)
    return module.collator(text, len(rows) - text, training=True)(rows)


def side(mixture: str, naive: bool, tiny: bool) -> Side:
    module, data = build(mixture, tiny)
    if naive:
        module.model.__class__ = DenseModel
        segments = [module.formatter.segment(example, row) for row, example in rows_of(data)]
        return Side(
            module, torch.optim.AdamW(module.parameters(), lr=1e-4), one_a_row(segments, module.formatter), data
        )
    optimizer = module.optimization.configure(module.named_parameters(), 1000)["optimizer"]
    return Side(module, optimizer, packed(module, data), data)


def memory_of_steps(mixture: str, naive: bool, tiny: bool) -> float:
    """MiB that two steps take; run in a process of its own."""
    made = side(mixture, naive, tiny)
    before = peak_memory(torch.device("cpu"))
    made.step()
    made.step()
    return round((peak_memory(torch.device("cpu")) - before) / 2**20, 1)


def measured_apart(mixture: str, naive: bool, tiny: bool) -> float:
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
