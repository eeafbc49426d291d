"""plan: what a run will need, before it has weights, data or a GPU."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from unifluid.cli.errors import Parser, count
from unifluid.cli.flags import callbacks_of

if TYPE_CHECKING:
    from unifluid.modules.unifluid import UniFluid
    from unifluid.sequence import Task

DEVICES = {  # name: (dense bf16 FLOP/s, bytes of memory), of NVIDIA's data sheets
    "a100": (312e12, 80e9),
    "h100": (989e12, 80e9),
    "h200": (989e12, 141e9),
    "b200": (2250e12, 180e9),
}
TRACED_ROWS = 32  # examples traced for the FLOPs of a step: a step of thousands is as many times more
# Arguments that a plan changes: it does without files of weights, counts no FLOPs twice, and reckons with both ways.
CHANGED = {"weights": None, "init_from": None, "checkpointing": False}
EXAMPLES = """
  unifluid plan --config experiments/unifluid_gemma2_2b.yaml --device h200 --devices 64 --mfu 0.4
  unifluid plan --config experiments/demo.yaml --config experiments/strategy/fsdp.yaml --json

Flags of fit apply as well (--trainer.accumulate_grad_batches 8). Parameters and FLOPs are exact for rows of these
lengths; memory and time are estimates.
"""


def run(command: str, args: list[str]) -> None:
    options, rest = make_parser(command).parse_known_args(args)

    from unifluid.cli.trainer import settings

    config = settings([*(f"--config={file}" for file in options.config), *rest])
    found = plan(config, options)
    print(json.dumps(found, indent=2) if options.json else table(found))


def make_parser(command: str) -> Parser:
    parser = Parser(command, "Parameters, tokens, FLOPs, memory and hours of a run, in seconds and without a GPU.")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"examples:{EXAMPLES}"
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="as for fit; may be repeated")
    parser.add_argument("--device", choices=DEVICES, default="h100", help="whose speed and memory to count with (h100)")
    parser.add_argument("--devices", type=count, default=8, metavar="N", help="how many, over all nodes (8)")
    parser.add_argument("--mfu", type=float, default=0.4, help="share of their peak that the run will reach (0.4)")
    parser.add_argument("--prompt-tokens", type=count, default=128, metavar="N", help="ids of a prompt, mean (128)")
    parser.add_argument("--question-tokens", type=count, default=16, metavar="N", help="ids of a question, mean (16)")
    parser.add_argument("--answer-tokens", type=count, default=24, metavar="N", help="ids of an answer, mean (24)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def plan(config: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, under plain names; bytes and FLOPs as they are."""
    from unifluid.costs import Sizes, Texts, example_batch, memory, trace

    if not 0 < options.mfu <= 1:
        raise ValueError("--mfu must be a share between 0 and 1")
    module, trainer = build(config["model"]), config["trainer"]
    counts = rows_of(config["data"])
    rows, accumulate = sum(n for _, n in counts.values()), trainer["accumulate_grad_batches"]
    if accumulate < 1:
        raise ValueError(f"trainer.accumulate_grad_batches must be at least 1, got {accumulate}")
    if rows < options.devices * accumulate:
        raise ValueError(
            f"{rows} rows a step cannot be split over {options.devices} devices × {accumulate} accumulated batches"
        )
    texts = Texts(options.prompt_tokens, options.question_tokens, options.answer_tokens)
    micro, mixed = -(-rows // (options.devices * accumulate)), trainer["precision"] in (None, "bf16-mixed")

    def traced(n: int) -> Any:
        batch = example_batch(module.formatter, spread(counts, n), texts, module.row_length)
        return batch, trace(module.model, batch, module.copies, mixed)

    batch, step = traced(min(rows, TRACED_ROWS))
    scale = rows / min(rows, TRACED_ROWS)
    flops = {part: n * scale for part, n in step.flops.items()}
    _, kept = traced(micro) if micro != min(rows, TRACED_ROWS) else (batch, step)
    recomputed = kept.kept - sum(n - entry for n, entry in kept.layers) + max((n for n, _ in kept.layers), default=0)
    sizes, ema = Sizes.of(module.model), any("EMA" in c["class_path"] for c in callbacks_of(trainer))
    peak, capacity = DEVICES[options.device]
    needs = {}
    strategies = {"one GPU, DDP": 1, f"FSDP2 over {options.devices}": options.devices}
    for name, devices in list(strategies.items())[: 1 if options.devices == 1 else 2]:
        for how, activations in {"": kept.kept, ", layers recomputed": recomputed}.items():
            needs[name + how] = memory(sizes, activations, mixed, ema, devices)
    seconds = sum(flops.values()) / (options.devices * peak * options.mfu)
    tokens = {
        "text": round(batch.text_ids.numel() * scale),
        "looked at": round(batch.image_index.numel() * scale),
        "drawn": round(batch.target_index.numel() * scale),
    }
    steps = trainer["max_steps"]
    return {
        "parameters": {name: {"all": n, "trained": m} for name, (n, m) in sizes.parts.items() if n},
        "rows": {name: {"task": task, "rows": n} for name, (task, n) in counts.items()},
        "rows_per_device": micro,
        "tokens_per_step": tokens,
        "padding": batch.padding,
        "flops_per_step": flops,
        "memory": needs,
        "evaluation_copy": 4 * sizes.total,
        "capacity": capacity,
        "device": options.device,
        "devices": options.devices,
        "mfu": options.mfu,
        "seconds_per_step": seconds,
        "tokens_per_second": sum(tokens.values()) / seconds,
        "steps": steps,
        "hours": seconds * steps / 3600 if steps > 0 else None,
    }


def build(config: dict[str, Any]) -> UniFluid:
    """The module that `fit` would build, without memory for its weights and without files that name them."""
    import lightning as L
    import torch

    from unifluid.cli.parts import instantiate
    from unifluid.modules.unifluid import UniFluid

    with torch.device("meta"):
        module = instantiate(L.LightningModule, "model", changed(config))
        if not isinstance(module, UniFluid):
            raise ValueError(f"plan is for unifluid.UniFluid, the config trains {config['class_path']}")
        module.configure_model()
    return module


def changed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: CHANGED.get(k, changed(v)) for k, v in value.items()}
    return value


def rows_of(data: dict[str, Any]) -> dict[str, tuple[Task, int]]:
    """Name of each stream → its task, rows in a step. Data sets are not opened."""
    from datamodules.mixture import Stream, share_out
    from unifluid.cli.parts import mixture

    arguments = mixture(data)
    streams = arguments["streams"]
    shares = {name: Stream(None, stream.get("rows"), stream.get("weight")) for name, stream in streams.items()}
    counts = share_out(shares, arguments.get("rows"))
    return {name: (task_of(streams[name]["dataset"], name), n) for name, n in counts.items()}


def task_of(dataset: dict[str, Any], name: str) -> Task:
    from importlib import import_module

    arguments = dataset.get("init_args", {})
    if "dataset" in arguments:  # one that changes another's pictures
        return task_of(arguments["dataset"], name)
    module, _, cls = dataset["class_path"].rpartition(".")  # held against the allowlist when the config was parsed
    task = arguments.get("task", getattr(getattr(import_module(module), cls), "task", None))
    if task is None:
        raise ValueError(f"data.streams.{name}: {dataset['class_path']} does not say its task before it is opened")
    return task


def spread(counts: dict[str, tuple[Task, int]], n: int) -> list[Task]:
    """The tasks of `n` rows that stand for all rows of a step: evenly spaced."""
    tasks = [task for task, rows in counts.values() for _ in range(rows)]
    return [tasks[int((i + 0.5) * len(tasks) / n)] for i in range(n)]


def table(found: dict[str, Any]) -> str:
    """The same to read."""
    lines = ["parameters (millions)             all   trained"]
    parameters = found["parameters"] | {
        "all": {k: sum(p[k] for p in found["parameters"].values()) for k in ("all", "trained")}
    }
    lines += [f"  {name:26}{p['all'] / 1e6:9.1f} {p['trained'] / 1e6:9.1f}" for name, p in parameters.items()]
    tokens = found["tokens_per_step"]
    lines += ["", f"a step: {sum(r['rows'] for r in found['rows'].values()):,} rows"]
    lines += [f"  {name:26}{r['rows']:9,}  {r['task']}" for name, r in found["rows"].items()]
    lines += [f"  tokens {name:19}{n:9,}" for name, n in tokens.items()]
    lines += [f"  padding {'':18}{found['padding']:9.1%}"]
    flops = found["flops_per_step"] | {"all": sum(found["flops_per_step"].values())}
    lines += ["", "TFLOPs a step"]
    lines += [f"  {name:26}{n / 1e12:9,.4g}" for name, n in flops.items() if n]
    names = list(dict.fromkeys(name for needs in found["memory"].values() for name in needs))
    lines += ["", f"memory of a GPU (GB of {found['capacity'] / 1e9:.0f}), {found['rows_per_device']} rows at once"]
    for strategy, needs in found["memory"].items():
        total = sum(needs.values())
        parts = ", ".join(f"{name} {needs[name] / 1e9:.1f}" for name in names if needs.get(name))
        lines.append(f"  {strategy:40}{total / 1e9:7.1f}{'  too much' if total > found['capacity'] else ''}  ({parts})")
    lines.append(f"  {'sharded, while evaluating, beside that':40}{found['evaluation_copy'] / 1e9:7.1f}")
    about = f"{found['devices']} × {found['device']} at {found['mfu']:.0%} of peak"
    lines += ["", f"{about}: {found['seconds_per_step']:.2f} s a step, {found['tokens_per_second']:,.0f} tokens/s"]
    if found["hours"] is not None:
        lines.append(f"{found['steps']:,} steps: {found['hours']:,.1f} hours, {found['hours'] / 24:,.1f} days")
    return "\n".join(lines)
