"""Linear layers on a CPU with their weights laid out for its matrix products once, for as long as something is drawn.

A head step on a few rows is bound by reading weights: in the layout of oneDNN's own kernels they are read several times
as fast, and as 8-bit integers in a quarter of the bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SMALLEST = 2**17  # weights of a matrix for which the call is not what takes the time
LARGEST = 2**28  # weights of a module, which are held twice while it is packed


@contextmanager
def packed(*modules: nn.Module, int8: bool = False) -> Iterator[None]:
    """Within it the linear layers of `modules` compute from packed copies of their weights, in autocast's dtype if on.

    The same results up to rounding; with `int8` each output channel's weights and each call's inputs are rounded to
    8 bits. Modules on other devices, too large ones, and all in a dtype this CPU has no kernels for stay as they are.

    Raises ValueError for `int8` on another device than a CPU.
    """
    layers: list[nn.Linear] = []
    try:
        for module in modules:
            for layer in _layers(module, int8):
                layer.forward = _int8(layer) if int8 else _prepacked(layer)
                layers.append(layer)
        yield
    finally:
        for layer in layers:
            del layer.forward


def _layers(module: nn.Module, int8: bool) -> list[nn.Linear]:
    linear = [layer for layer in module.modules() if type(layer) is nn.Linear and layer.weight.numel() >= SMALLEST]
    device = next((parameter.device.type for parameter in module.parameters()), "cpu")
    if int8 and device != "cpu":
        raise ValueError(f"int8 is for models on a CPU, this one is on {device}: leave int8 out")
    if device != "cpu" or not int8 and sum(layer.weight.numel() for layer in linear) > LARGEST:
        return []
    return [layer for layer in linear if int8 or _has_kernels(_dtype(layer))]


def _dtype(layer: nn.Linear) -> torch.dtype:
    """That it computes in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else layer.weight.dtype


def _has_kernels(dtype: torch.dtype) -> bool:
    """Of oneDNN: in half precision only CPUs with instructions for it, though all compute in it."""
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if dtype == torch.float16:
        return torch.ops.mkldnn._is_mkldnn_fp16_supported()
    return dtype == torch.float32


def _prepacked(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    dtype = _dtype(layer)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype), None)

    def forward(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x.to(dtype), weight, bias, "none", [], "")

    return forward


def _int8(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = layer.weight.detach().float()
    scale = weight.abs().amax(1).clamp_min(1e-12).double() / 127
    bias = None if layer.bias is None else layer.bias.detach().float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that tensors like these move to another package
        rounded = torch.quantize_per_channel(weight, scale, torch.zeros(len(scale), dtype=torch.int64), 0, torch.qint8)
        prepared = torch.ops.quantized.linear_prepack(rounded, bias)

    def forward(x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x.float(), prepared, True).to(x.dtype)

    return forward
