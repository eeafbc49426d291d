"""Linear layers from packed weights: the layers' own results, while something is drawn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding import packed as module
from unifluid.decoding.packed import packed
from unifluid.sequence import Example


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(512, 512), nn.SiLU(), nn.Linear(512, 512, bias=False), nn.Linear(512, 8))


@pytest.mark.parametrize("shape", [(1, 512), (2, 3, 512), (70, 512)])
def test_packed_layers_give_what_the_layers_give(net, shape):
    x = torch.randn(shape)
    with torch.inference_mode():
        expected = net(x)
        with packed(net):
            assert "forward" in vars(net[0]) and "forward" not in vars(net[3])  # too small to gain from it
            assert torch.allclose(net(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(net(x), expected)


def test_in_autocast_they_compute_in_its_dtype(net):
    x = torch.randn(4, 512)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = net(x)
        with packed(net):
            made = net(x)
    assert made.dtype == torch.bfloat16
    assert torch.allclose(made.float(), expected.float(), atol=2e-2)


OLDER = """
import torch
from torch import nn
from unifluid.decoding.packed import packed
net = nn.Sequential(nn.Linear(512, 512))
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), packed(net):
    assert net(torch.randn(2, 512)).isfinite().all()
    assert "forward" not in vars(net[0])
"""


def test_where_a_cpu_has_no_instructions_for_the_dtype_layers_stay_as_they_are():
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # read once by a process
    subprocess.run([sys.executable, "-c", OLDER], check=True, env=environment, cwd=Path(__file__).parents[2])


def test_other_dtypes_and_parts_without_weights_stay_as_they_are(net):
    with torch.inference_mode(), packed(net.double()):
        assert net(torch.randn(2, 512, dtype=torch.float64)).dtype == torch.float64
    with packed(nn.Identity()):
        pass


def test_eight_bits_are_near(net):
    x = torch.randn(16, 512)
    with torch.inference_mode():
        expected = net(x)
        with packed(net, int8=True):
            made = net(x)
    error = (made - expected).norm() / expected.norm()
    assert 1e-4 < error < 0.03


def test_layers_are_themselves_again_after_an_error(net):
    with pytest.raises(RuntimeError, match="stop"), packed(net):
        raise RuntimeError("stop")
    assert all("forward" not in vars(layer) for layer in net)


def test_large_modules_are_not_held_twice(net, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    with packed(net):
        assert "forward" not in vars(net[0])


def test_eight_bits_are_refused_elsewhere(net):
    with pytest.raises(ValueError, match="int8 is for models on a CPU"), packed(net.to("meta"), int8=True):
        pass


@pytest.mark.parametrize("int8", [False, True])
def test_pictures_are_drawn_with_packed_layers(monkeypatch, int8):
    monkeypatch.setattr(module, "SMALLEST", 1)
    model = tiny.model()
    formatter = tiny.formatter(model)
    examples = [Example("0", "generate", prompt="a dog")]
    monkeypatch.setattr(module, "LARGEST", 0 if not int8 else 2**28)
    images = [generate_images(model, formatter, examples, ImageSampling(steps=3, int8=False), 0)]
    monkeypatch.setattr(module, "LARGEST", 2**28)
    images.append(generate_images(model, formatter, examples, ImageSampling(steps=3, int8=int8), 0))
    difference = (images[0].int() - images[1].int()).abs()
    assert difference.max() <= 1 if not int8 else 0 < difference.float().mean() < 30
