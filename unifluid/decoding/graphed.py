"""Work that is recorded once and then replayed: on a GPU a CUDA graph, which launches thousands of kernels as one.

A token takes all head steps of a small network. Python needs longer to launch its kernels than a GPU needs to run them;
replayed, they wait for nothing. What is recorded is the list of kernels with the addresses they read and write, so the
work may depend on nothing but the contents of tensors: no Python number that changes, no tensor from the host.
"""

from __future__ import annotations

import functools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-2  # of the largest value: as a recording's kernels may be others, and in bf16
Work = Callable[..., Tensor]  # a function of tensors
Recorder = Callable[[Work], Work]  # makes a function of the same results that is faster to call again and again


def eager(work: Work) -> Work:
    """`work` as it is."""
    return work


def recorder_for(device: torch.device) -> Recorder:
    return CudaGraphs if device.type == "cuda" else eager


class Replayed(ABC):
    """Calls `work` when inputs of these shapes are met first, which warms it up, and replays a recording from then on.

    There is one recording for each combination of shapes and dtypes. Inputs are copied to where the recording reads
    them; the result is overwritten by the next call.
    """

    def __init__(self, work: Work):
        self.work = work
        self.recordings: dict[tuple, tuple[list[Tensor], Callable[[], Tensor]] | None] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        kinds = tuple((x.shape, x.dtype) for x in inputs)
        if kinds not in self.recordings:
            self.recordings[kinds] = None
            return self.first(*inputs)
        if self.recordings[kinds] is None:
            buffers = [x.clone() for x in inputs]
            self.recordings[kinds] = buffers, self.record(buffers)
        buffers, replay = self.recordings[kinds]
        for buffer, x in zip(buffers, inputs, strict=True):
            buffer.copy_(x)
        return replay()

    def first(self, *inputs: Tensor) -> Tensor:
        """The call that warms up."""
        return self.work(*inputs)

    @abstractmethod
    def record(self, buffers: list[Tensor]) -> Callable[[], Tensor]:
        """A function that does the work again on what `buffers` hold by then -> always the same tensor."""


class CudaGraphs(Replayed):
    """CUDA graphs, which share their memory and give it back when this object goes.

    Weights are not copied. What autocast has cast of them stays where it is until the outermost autocast ends, and the
    first call has cast all: no graph does it again, and none may be replayed after that end. Where no graph can be
    made, or it does not repeat what the work gives, a warning says why, and the work goes on without.
    """

    def __init__(self, work: Work):
        super().__init__(work)
        self.pool, self.possible = torch.cuda.graph_pool_handle(), True

    def first(self, *inputs: Tensor) -> Tensor:
        """On the stream that is to be recorded: libraries make a workspace for each stream that they meet."""
        device = inputs[0].device
        current, side = torch.cuda.current_stream(device), side_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            result = super().first(*inputs)
        current.wait_stream(side)
        return result

    def record(self, buffers: list[Tensor]) -> Callable[[], Tensor]:
        if self.possible:
            try:
                return self.graph(buffers)
            except RuntimeError as error:
                self.possible = False
                reason = str(error.__context__ or error).splitlines()[0]  # that of the work, not of the recording's end
                warnings.warn(f"no CUDA graph can be made, so drawing is slower: {reason}", stacklevel=2)
        return functools.partial(self.work, *buffers)

    def graph(self, buffers: list[Tensor]) -> Callable[[], Tensor]:
        device, graph, expected = buffers[0].device, torch.cuda.CUDAGraph(), self.work(*buffers).clone()
        # Only this thread is watched: others, such as a loader's that pins memory, may go on meanwhile. The outer
        # context chooses the device, and returns to its stream where a recording that fails does not.
        with (
            torch.cuda.stream(torch.cuda.current_stream(device)),
            torch.cuda.graph(graph, self.pool, side_stream(device), capture_error_mode="thread_local"),
        ):
            result = self.work(*buffers)

        def replay() -> Tensor:
            graph.replay()
            return result

        near = TOLERANCE * float(expected.nan_to_num().abs().max())
        if not torch.allclose(replay(), expected, rtol=0.0, atol=near, equal_nan=True):
            raise RuntimeError("it does not repeat what it has recorded")
        return replay


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the process: workspaces made for a stream are kept for good."""
    return torch.cuda.Stream(device)
