"""What a GPU would refuse or do otherwise, found on a CPU: waiting for the device, and CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from unifluid.decoding.graphed import Replayed


class Recording(TorchDispatchMode):
    """The operators that were run and the tensors they were run on; they can be run again without Python between."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Callable[..., Any], tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        inputs = {storage(t) for t in tensors((args, kwargs))}
        outputs = [] if func._schema.is_mutable else tensors(made)
        if func._schema.is_mutable or any(storage(t) not in inputs for t in outputs):  # views are where they are
            self.steps.append((func, args, kwargs, outputs))
        return made

    def run(self) -> None:
        for func, args, kwargs, outputs in self.steps:
            made = func(*args, **kwargs)
            for output, new in zip(outputs, tensors(made), strict=False):
                output.copy_(new)


class Tape(Replayed):
    """A CUDA graph on a CPU: every replay runs the recorded operators on the recorded addresses."""

    def record(self, buffers: list[Tensor]) -> Callable[[], Tensor]:
        with Recording() as recording:
            result = self.work(*buffers)

        def replay() -> Tensor:
            recording.run()
            return result

        return replay


class PretendedGPU(TorchDispatchMode):
    """Tensors without contents on a GPU that is not there, beside the host's own, which are real.

    Raises where the host asks for contents, or for a shape that depends on them, or waits for a copy to be made. In a
    `graph` no tensor can come from the host at all.
    """

    fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __init__(self, graph: bool = False) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs, to = tensors((args, kwargs)), kwargs.get("device")
        there, to = any(t.device.type == "cuda" for t in inputs), to and torch.device(to).type
        if not there and to != "cuda":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if there and to == "cpu":
            raise RuntimeError(f"{func} waits for the device")
        host = any(t.device.type == "cpu" and (t.ndim or to == "cuda") for t in inputs)
        if host and (self.graph or not kwargs.get("non_blocking")):
            raise RuntimeError(f"{func} waits for a copy from the host")
        args, kwargs = tree_map_only(Tensor, self.fake.from_tensor, (args, kwargs))
        return func(*args, **kwargs)

    def __enter__(self) -> PretendedGPU:
        self.fake.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.fake.__exit__(*exception)

    @classmethod
    def empty(cls, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        with cls.fake:
            return torch.empty(shape, dtype=dtype, device="cuda")

    @classmethod
    def moved(cls, module: nn.Module) -> nn.Module:
        """A copy of `module` on the GPU."""

        def there(tensor: Tensor) -> Tensor:
            made = cls.empty(*tensor.shape, dtype=tensor.dtype)
            return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made

        return copy.deepcopy(module, {id(t): there(t) for t in (*module.parameters(), *module.buffers())})


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    return 0 if tensor.is_mkldnn else tensor.untyped_storage()._cdata
