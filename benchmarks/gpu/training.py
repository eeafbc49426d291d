"""Training on a GPU: twenty steps of the 2B recipe from stored moments, and where a step of the longer run goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import torch

from benchmarks.gpu.floors import device, matmul_rate
from benchmarks.harness import Bench
from benchmarks.models import Numbers
from benchmarks.steps import EXPERIMENTS, MIXTURES, Side, side
from benchmarks.timing import clocked
from unifluid.cli import plan
from unifluid.cli.parts import instantiate
from unifluid.cli.trainer import settings
from unifluid.costs import Texts, example_batch, trace
from unifluid.modules.unifluid import UniFluid
from unifluid.sequence import Batch, Task

FILES = {"weights": None, "init_from": None, "pretrained": None, "model_file": None}  # arguments that name files
EXAMPLES: dict[Task, int] = {"generate": 32, "caption": 16, "answer": 16}  # the recipe's shares
SMALL = [
    "--model.init_args.backbone.init_args.config={model_type: gemma2, hidden_size: 32, intermediate_size: 64, "
    "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16, vocab_size: 64}",
    "--model.init_args.text_tokenizer.init_args.vocab_size=64",
    "--model.init_args.image_head.init_args={depth: 1, width: 32}",
    "--model.init_args.image_encoder={class_path: unifluid.encoders.Patches, init_args: {width: 32, depth: 0}}",
    "--model.init_args.image_tokenizer.init_args.image_size=32",
    "--model.init_args.image_tokenizer.init_args.config={block_out_channels: [32, 32, 32, 32], layers_per_block: 1, "
    "down_block_types: [DownEncoderBlock2D, DownEncoderBlock2D, DownEncoderBlock2D, DownEncoderBlock2D], "
    "up_block_types: [UpDecoderBlock2D, UpDecoderBlock2D, UpDecoderBlock2D, UpDecoderBlock2D]}",
]


def recipe(bench: Bench) -> None:
    """Gemma 2 2B, all of it trained, SigLIP frozen, pictures to draw as stored moments; MFU against the data sheet.

    FLOPs are those of the step itself: what checkpointing computes twice counts once.
    """
    config = settings([f"--config={EXPERIMENTS / 'unifluid_gemma2_2b.yaml'}", *(SMALL if bench.tiny else [])])["model"]
    module = recipe_module(config)
    examples = [task for task, n in EXAMPLES.items() for _ in range(1 if bench.tiny else n)]
    batch = example_batch(module.formatter, examples, Texts(), module.row_length)
    traced = trace(plan.build(config).model, batch, module.copies, mixed=True).flops
    flops = sum(n for part, n in traced.items() if part != "image_tokenizer")  # which has nothing to do
    made = Side(module, optimizer_of(module), with_moments(batch, module).to(device()))
    seconds = [clocked(made.step)() for _ in range(2 if bench.tiny else 20)][-15:]
    tokens = int((made.batch.layout.segments > 0).sum())
    row = bench.add("step of the 2B recipe", {"ours": seconds}, tokens=tokens, padding=batch.padding)
    rate = flops / (row["ours_ms"] / 1000)
    shares = {"mfu": rate / plan.DEVICES["h200"][0], "share_of_measured_matmul": rate / matmul_rate(bench.tiny)}
    bench.more(row, tflops=flops / 1e12, tokens_per_s=1000 * tokens / row["ours_ms"], **shares, **memory())


def recipe_module(config: dict[str, Any]) -> UniFluid:
    """The recipe's module on the device, its weights random and its tokenizer without a file."""
    model = without_files(config)
    vocabulary = model["init_args"]["text_tokenizer"]["init_args"]["vocab_size"]
    with torch.device(device()):
        module = instantiate(L.LightningModule, "model", model)
        module.configure_model()
    module.formatter.tokenizer = Numbers(vocabulary)
    return module.train().to(device())


def without_files(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: FILES.get(k, without_files(v)) for k, v in value.items()}
    return value


def with_moments(batch: Batch, module: UniFluid) -> Batch:
    """The batch with random moments in place of the pictures to draw, and noise to look at."""
    tokenizer, generator = module.model.image_tokenizer, torch.Generator().manual_seed(0)
    with torch.no_grad():
        shape = tokenizer.encode(torch.zeros(1, 3, tokenizer.image_size, tokenizer.image_size, device=device())).shape
    moments = torch.randn(len(batch.targets), *shape[1:], generator=generator)
    images = torch.rand(batch.images.shape, generator=generator) * 2 - 1
    return replace(batch, targets=batch.targets[:0], moments=moments, images=images)


def optimizer_of(module: UniFluid) -> torch.optim.Optimizer:
    return module.optimization.configure(module.named_parameters(), 1000)["optimizer"]


def memory() -> dict[str, float]:
    return {"memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)} if torch.cuda.is_available() else {}


def longer_run(bench: Bench) -> None:
    """Wall time of a step beside the time that the GPU is at work in it: the rest is waiting for launches."""
    MIXTURES["shapes_gpu"] = ["demo", "shapes", "shapes_gpu"]
    if bench.tiny:
        made = side("demo", naive=False, tiny=True)
    else:
        made = side("shapes_gpu", naive=False, tiny=False)
    made.module.to(device())
    made = Side(made.module, optimizer_of(made.module), made.batch.to(device()))
    n = 2 if bench.tiny else 20
    for _ in range(n // 2):
        made.step()
    seconds = [clocked(made.step)() for _ in range(n)]
    row = bench.add("step of the longer run", {"ours": seconds}, **memory())
    busy = gpu_seconds(made, n)
    if busy is not None:
        bench.more(row, gpu_at_work_ms=round(1000 * busy, 3), gpu_share=round(1000 * busy / row["ours_ms"], 4))


def gpu_seconds(made: Side, n: int) -> float | None:
    """Seconds of kernels in a step, by the profiler; None without a GPU."""
    if device().type != "cuda":
        return None
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(n):
            made.step()
        torch.cuda.synchronize()
    kernels = [event for event in profiler.events() if event.device_type == DeviceType.CUDA]
    return sum(event.time_range.elapsed_us() for event in kernels) / n / 1e6
