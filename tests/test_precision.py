"""Precision follows the hardware where nobody asks for one."""

from __future__ import annotations

import pytest
import torch

from unifluid.precision import default_precision, fast_bf16


@pytest.fixture
def hardware(monkeypatch):
    """Pretend to a machine: does its CPU have bf16 instructions, is there a GPU?"""

    def pretend(bf16: bool, gpu: bool) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    return pretend


@pytest.mark.parametrize(
    ("bf16", "gpu", "accelerator", "precision"),
    [
        (False, False, "auto", "32-true"),
        (True, False, "auto", "bf16-mixed"),
        (False, True, "auto", "bf16-mixed"),
        (False, True, "cpu", "32-true"),
        (True, True, "cpu", "bf16-mixed"),
    ],
)
def test_precision_follows_the_hardware(hardware, bf16, gpu, accelerator, precision):
    hardware(bf16, gpu)
    assert default_precision(accelerator) == precision


def test_bf16_is_fast_on_cuda_alone_of_all_accelerators(hardware):
    hardware(False, False)
    assert [fast_bf16(torch.device(name)) for name in ("cuda", "cpu", "mps")] == [True, False, False]
