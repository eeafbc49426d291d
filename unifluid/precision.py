"""Which precision the hardware is made for."""

from __future__ import annotations

import torch


def fast_bf16(device: torch.device) -> bool:
    """Whether matrix products are faster in bf16 than in fp32: on CUDA, and on CPUs that have instructions for them.

    On two cores with AVX512-BF16 they are 2.5 times as fast; without, CPUs emulate bf16 at two thirds of fp32's speed.
    """
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda"


def default_precision(accelerator: str) -> str:
    """The precision to train in where none is asked for, as Lightning names it, on its `accelerator` (auto, cpu, …)."""
    device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    return "bf16-mixed" if fast_bf16(device) else "32-true"
