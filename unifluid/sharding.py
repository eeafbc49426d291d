"""A model whose parameters, gradients, optimizer state and averages are spread over all processes: PyTorch's FSDP2.

    trainer: {strategy: {class_path: unifluid.sharding.FSDP2}, devices: 8}

The strategy is Lightning's; what is here is how this model is cut, how it is made whole for evaluation, and that its
checkpoints are like all others.
"""

from __future__ import annotations

import atexit
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor import empty as empty_sharded

from unifluid import shards, storage
from unifluid.model import UniFluidModel
from unifluid.shards import whole


class Skeleton:
    """The structure of a model without its parameters, taken before it is sharded: what makes it whole again."""

    def __init__(self, model: UniFluidModel):
        named = dict(model.named_parameters())
        empty = {name: nn.Parameter(p.to("meta"), p.requires_grad) for name, p in named.items()}
        self.parameters = {name: id(p) for name, p in empty.items()}
        self.model = copy.deepcopy(model, {id(p): empty[name] for name, p in named.items()})

    def filled(self, model: UniFluidModel) -> UniFluidModel:
        """A plain copy of the sharded `model` on every process, all of which must ask for it."""
        made = {name: nn.Parameter(whole(p.detach()), p.requires_grad) for name, p in model.named_parameters()}
        plain = copy.deepcopy(self.model, {self.parameters[name]: p for name, p in made.items()})
        for own, buffer in zip(plain.buffers(), model.buffers(), strict=True):
            own.data = buffer.clone()
        return plain.train(model.training)


def shard(model: UniFluidModel, mesh: DeviceMesh, precision: str) -> None:
    """Cut `model` in place: each heavy layer is gathered where it runs, what is left with the first call.

    The image tokenizer is left alone: it is frozen and stays in fp32. In bf16-mixed heavy layers are gathered in bf16,
    which is what autocast would compute with; what is left, gradients and everything at rest are fp32. (On a CPU they
    are gathered in fp32: its norms refuse weights of another type than their input.)
    """
    dtype = torch.bfloat16 if precision == "bf16-mixed" and mesh.device_type != "cpu" else None
    heavy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    light = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)  # times and noise stay fp32
    for layer in model.layers():
        fully_shard(layer, mesh=mesh, mp_policy=heavy)
    fully_shard(model, mesh=mesh, mp_policy=light, ignored_params=set(model.image_tokenizer.parameters()))


def reshard(module: nn.Module) -> None:
    """Let go of what was gathered: after a forward pass without a backward pass some of it still is."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def gathered(module: L.LightningModule) -> Iterator[None]:
    """Inside, `module.model` is whole on every process, so that each can draw and write at its own pace."""
    if module.device_mesh is None:
        yield
        return
    sharded = module.model
    module.model = module.skeleton.filled(sharded)
    try:
        yield
    finally:
        module.model = sharded


def leave_group() -> None:
    """Leave the process group, if there still is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism over all devices of all nodes.

    Args:
        save_distributed_checkpoint: a checkpoint is a folder to which every process writes its part; otherwise one
            file, gathered by the first. Either is read by every strategy, over any number of devices.
        process_group_backend: default: nccl on GPUs, gloo on CPUs.
    """

    def __init__(self, save_distributed_checkpoint: bool = True, process_group_backend: str | None = None):
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
        )

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
        # Lightning does so for nccl alone; gloo's threads, left running, abort some exits.
        atexit.register(leave_group)

    def setup(self, trainer: L.Trainer) -> None:
        """Raises ValueError for a module that left its model whole: gradients would stay apart."""
        super().setup(trainer)
        if not any(isinstance(part, FSDPModule) for part in self.model.modules()):
            raise ValueError(f"trainer.strategy: {type(self.model).__name__} is not made to be sharded, take ddp")

    @property
    def mesh(self) -> DeviceMesh:
        return self.device_mesh["data_parallel"]

    # Checkpoints have the form they have everywhere, only that some tensors are sharded. ModelParallelStrategy names
    # an optimizer's state in its own way, and takes that of others for what it is not where there are several groups.
    lightning_restore_optimizer = ParallelStrategy.lightning_restore_optimizer
    lightning_module_state_dict = ParallelStrategy.lightning_module_state_dict
    load_model_state_dict = ParallelStrategy.load_model_state_dict
    optimizer_state = ParallelStrategy.optimizer_state
    load_optimizer_state_dict = ParallelStrategy.load_optimizer_state_dict

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        path = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint:
            checkpoint = shards.map_tensors(lambda _, t: whole(t).cpu() if isinstance(t, DTensor) else t, checkpoint)
            if self.is_global_zero:
                storage.save(checkpoint, path)
            return
        if self.is_global_zero:
            storage.start_sharded(path)
        self.barrier()
        try:
            rest = shards.write(checkpoint, storage.unfinished(path))
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            raise OSError(f"{path}: the checkpoint cannot be written: {cause}") from error
        if self.is_global_zero:
            storage.finish_sharded(rest, path)
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Any checkpoint, each process holding its part. Never runs stored code, whatever `weights_only` says."""
        path, own = self.broadcast(checkpoint_path), self.lightning_module.state_dict()

        def sharded(key: shards.Key, tensor: Tensor) -> bool:
            if key[0] in ("state_dict", "ema"):
                return isinstance(own.get(key[-1]), DTensor)
            return key[0] == "optimizer_states" and tensor.ndim > 0

        def place(key: shards.Key, tensor: Tensor) -> Tensor:
            if not sharded(key, tensor):
                return torch.empty_like(tensor, device="cpu")
            return empty_sharded(*tensor.shape, dtype=tensor.dtype, device_mesh=self.mesh, placements=[Shard(0)])

        def cut(key: shards.Key, tensor: Tensor) -> Tensor:
            if isinstance(tensor, DTensor) or not sharded(key, tensor):
                return tensor
            return distribute_tensor(tensor, self.mesh, [Shard(0)], src_data_rank=None)  # every process has it all

        return shards.map_tensors(cut, storage.load(path, mmap=True, place=place))
