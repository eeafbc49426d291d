"""TimmEncoder: timm's own feature maps, whatever their layout, from its own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unifluid.encoders import TimmEncoder

SWIN = {"depths": [1, 1], "embed_dim": 16, "num_heads": [2, 2], "window_size": 2}
VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
CASES = {  # model: (options, pixels, how the map becomes tokens)
    "efficientnet_lite0": ({}, 64, lambda features: features.permute(0, 2, 3, 1).reshape(2, 4, 1280)),
    "swin_tiny_patch4_window7_224": (SWIN, 16, lambda features: features.reshape(2, 4, 32)),
    "vit_tiny_patch16_224": (VIT, 16, lambda features: features[:, 1:]),  # without the class token
}


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def write(folder: Path, name: str) -> nn.Module:
    """The whole model, its classifier as well, with statistics that are not those of a fresh one."""
    options, size, _ = CASES[name]
    torch.manual_seed(0)
    net = timm.create_model(name, **options, **({"img_size": size} if options else {})).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    save_file(net.state_dict(), folder / "model.safetensors")
    return net


def loaded(weights: Path, name: str = "efficientnet_lite0", **arguments) -> TimmEncoder:
    options, size, _ = CASES[name]
    encoder = TimmEncoder(name, str(weights), **{"image_size": size, "options": options, **arguments}).eval()
    encoder.load_pretrained()
    return encoder


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_timm(name, tmp_path, image):
    net, encoder = write(tmp_path, name), loaded(tmp_path, name)
    _, size, tokens = CASES[name]
    image = image[..., :size, :size]
    mean, std = (torch.tensor(net.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    expected = tokens(net.forward_features(((image + 1) / 2 - mean) / std))
    assert expected.shape == (2, encoder.num_tokens, encoder.width)
    assert expected.std() > 0.1
    assert torch.allclose(encoder(image), expected, atol=1e-5)


def test_batch_norms_keep_their_statistics(tmp_path, image):
    """A picture has the features it has alone, in training too, and no picture is one as well."""
    write(tmp_path, "efficientnet_lite0")
    encoder = loaded(tmp_path)
    before, expected = {name: x.clone() for name, x in encoder.named_buffers()}, encoder(image)
    features = encoder.train()(image)
    assert encoder.training and torch.equal(features, expected)
    assert encoder(image[:0]).shape == (0, 4, 1280)
    assert all(torch.equal(x, before[name]) for name, x in encoder.named_buffers())
    features.square().sum().backward()
    assert encoder.net.bn1.weight.grad.any()


def test_what_comes_after_the_map_is_left_out():
    """DDP waits for the gradient of each parameter; MobileNetV3 pools before its last convolution."""
    encoder = TimmEncoder("mobilenetv3_small_050", image_size=32)
    assert {"conv_head", "classifier"} < set(encoder.unused)
    encoder(torch.zeros(1, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_sizes_are_known_without_weights():
    with torch.device("meta"):
        for size, expected in ((None, (224, 49, 1280)), (128, (128, 16, 1280)), (100, (100, 16, 1280))):
            encoder = TimmEncoder("efficientnet_lite0", image_size=size, weights="nowhere")
            assert (encoder.image_size, encoder.num_tokens, encoder.width) == expected


# -- mistakes -------------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_named(tmp_path):
    write(tmp_path, "efficientnet_lite0")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"bn1.weight": torch.ones(3)}, file)
    with pytest.raises(ValueError, match=r"model.safetensors does not fit this EfficientNet: bn1.weight is \(3,\)"):
        loaded(tmp_path)
    del tensors["bn1.weight"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"model.safetensors does not fit this EfficientNet: bn1.weight is missing"):
        loaded(tmp_path)
    with pytest.raises(ValueError, match=r"gone.safetensors does not exist"):
        loaded(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "efficientnet_nothing"}, "timm has no model 'efficientnet_nothing'"),
        ({"model": "efficientnet_lite0", "options": {"height": 3}}, "timm cannot build efficientnet_lite0 .*height"),
        ({"model": "vgg11", "image_size": 16}, "vgg11 has no features at 16 pixels"),
        ({"model": "vit_tiny_patch16_224", "image_size": 3}, "vit_tiny_patch16_224 has no features at 3 pixels"),
    ],
)
def test_models_that_cannot_be_are_named(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        TimmEncoder(**arguments)
