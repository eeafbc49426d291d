"""How fast the hardware could be: the same matrix products in a CUDA graph, and memory traffic at copying speed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.timing import clocked


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> torch.autocast:
    return torch.autocast(device().type, torch.bfloat16)


@torch.no_grad()
def graphed(work: Callable[[], None]) -> Callable[[], None]:
    """`work` recorded as a CUDA graph, so that no launch is waited for; on a CPU as it is."""
    if device().type != "cuda":
        return work
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def chain(weights: Iterable[Tensor], rows: int) -> Callable[[], None]:
    """One product after another of `rows` vectors with every weight (out, in), in the weights' dtype; no more."""
    weights = [weight.detach() for weight in weights]
    widths = {(w.shape[1], w.dtype): torch.randn(rows, w.shape[1], device=w.device).to(w.dtype) for w in weights}

    def work() -> None:
        for weight in weights:
            linear(widths[weight.shape[1], weight.dtype], weight)

    return work


def linears(module: nn.Module) -> list[Tensor]:
    return [m.weight for m in module.modules() if isinstance(m, nn.Linear)]


def weight_bytes(weights: Iterable[Tensor]) -> int:
    return sum(w.numel() * w.element_size() for w in weights)


@cache
def bandwidth(tiny: bool) -> float:
    """Bytes a second, read and written, of copying 2 GiB (tiny: 1 MiB)."""
    source = torch.zeros(2**20 if tiny else 2**31, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    seconds = sorted(clocked(lambda: target.copy_(source))() for _ in range(10))
    return 2 * source.numel() / seconds[len(seconds) // 2]


@cache
def matmul_rate(tiny: bool) -> float:
    """FLOP/s of large bf16 products."""
    n = 64 if tiny else 8192
    a, b = (torch.randn(n, n, device=device()).bfloat16() for _ in range(2))
    seconds = sorted(clocked(lambda: a @ b)() for _ in range(10))
    return 2 * n**3 / seconds[len(seconds) // 2]
