"""What runs nowhere but on a GPU, checked for its results: FlexAttention's kernels, NCCL's collectives."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, distributed

from benchmarks.gpu.floors import device
from benchmarks.harness import Bench
from benchmarks.timing import agree
from unifluid.backbones.attention import Pattern, attend, flex_attend
from unifluid.layout import Layout

HEADS, KEY_HEADS, SCALE = 8, 4, 256**-0.5  # Gemma 2 2B's


@dataclass(frozen=True)
class Case:
    name: str
    softcap: float | None
    window: int | None
    dtype: torch.dtype = torch.bfloat16
    width: int = 256  # of a head


CASES = (  # Gemma 2 needs the first two; each takes its time to compile
    Case("soft cap and window", 50.0, 64),
    Case("soft cap", 50.0, None),
    Case("plain", None, None),
    Case("soft cap and window, fp32", 50.0, 64, torch.float32, 64),  # at 256 fp32 does not fit a block's memory
)


def packed_layout(rows: int, length: int) -> Layout:
    """Rows of three segments of different lengths, each half prefix, and some padding."""
    grid = torch.zeros(3, rows, length, dtype=torch.long)
    for row in range(rows):
        start = 0
        for number, share in enumerate((0.5, 0.25, 0.15 + 0.05 * (row % 2)), 1):
            n = int(share * length)
            grid[0, row, start : start + n] = number
            grid[1, row, start : start + n // 2] = 1
            grid[2, row, start : start + n] = torch.arange(n)
            start += n
    return Layout(grid[0], grid[1].bool(), grid[2])


def flex_attention(bench: Bench) -> None:
    """Forward and backward, and their results beside those of dense attention in fp32."""
    rows, length = (2, 32) if bench.tiny else (8, 1024)
    layout = packed_layout(rows, length).map(lambda t: t.to(device()))
    backward = device().type == "cuda"  # on a CPU the kernel has none
    for case in CASES:
        bench.say(f"FlexAttention, {case.name} …")
        torch.manual_seed(0)
        width, dtype = (16, torch.float32) if bench.tiny else (case.width, case.dtype)
        heads = HEADS, KEY_HEADS, KEY_HEADS
        q, k, v = (torch.randn(rows, h, length, width, device=device()).to(dtype) for h in heads)
        weights = torch.randn_like(q)
        blocks, bias = (
            getattr(Pattern(layout, slice(0, length), length), kind)(case.window) for kind in ("blocks", "bias")
        )
        flexible = partial(flex_attend, blocks=blocks, scale=SCALE, softcap=case.softcap)
        dense = partial(attend, bias=bias, scale=SCALE, softcap=case.softcap)
        exact = gradients(dense, (q.float(), k.float(), v.float()), weights.float(), backward)
        found = gradients(flexible, (q, k, v), weights, backward)
        names = ("output", "of_q", "of_k", "of_v")
        errors = {f"difference_{n}": agree(case.name, a, b, 2e-2) for n, a, b in zip(names, found, exact, strict=False)}
        bench.compare(
            f"FlexAttention, {case.name}",
            ours=partial(gradients, flexible, (q, k, v), weights, backward),
            reference=partial(gradients, dense, (q, k, v), weights, backward),
            beside="dense attention, forward and backward" if backward else "dense attention, forward",
            **errors,
        )


def gradients(
    attention: Callable[..., Tensor], inputs: tuple[Tensor, ...], weights: Tensor, backward: bool
) -> list[Tensor]:
    """The output and, where there is a backward pass, the gradients of its weighted sum."""
    inputs = [x.detach().requires_grad_(backward) for x in inputs]
    output = attention(*inputs)
    if not backward:
        return [output.detach()]
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)]


def collectives(bench: Bench) -> None:
    """A world of one: every collective that DDP and FSDP2 use gives back what went in."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    backend = "nccl" if device().type == "cuda" else "gloo"
    distributed.init_process_group(backend, f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        x = torch.randn(2**10 if bench.tiny else 2**26, device=device())

        def all_reduce() -> Tensor:
            y = x.clone()
            distributed.all_reduce(y)
            return y

        def all_gather() -> Tensor:
            y = torch.empty_like(x)
            distributed.all_gather_into_tensor(y, x)
            return y

        def reduce_scatter() -> Tensor:
            y = torch.empty_like(x)
            distributed.reduce_scatter_tensor(y, x)
            return y

        for collective in (all_reduce, all_gather, reduce_scatter):
            bench.compare(f"{backend}, world of one, {collective.__name__}", collective, x.clone, 0.0, beside="a copy")
        wrapped = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8).to(device()))
        y = torch.randn(4, 8, device=device())
        wrapped(y).square().sum().backward()
        plain = torch.autograd.grad(wrapped.module(y).square().sum(), wrapped.module.weight)[0]
        agree("DDP's gradient", wrapped.module.weight.grad, plain, 1e-6)
        bench.put({"case": f"{backend}, world of one, DDP", "max_error": 0.0})
    finally:
        distributed.destroy_process_group()
