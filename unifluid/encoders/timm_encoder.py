"""Image encoder: the last feature map of any model of timm, convolutional or transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unifluid.interfaces import ImageEncoder
from unifluid.layers import normalised
from unifluid.weights import fit, locate, read_tensors

TENSORS = "model.safetensors"  # what the hub calls the file


class TimmEncoder(ImageEncoder):
    """Places of the feature map (h × w) as tokens, row-major: timm's `forward_features`, without class tokens.

    What comes after that map – pooling, classifier – is left out, of the weights as well. Batch norms keep the
    statistics they were trained with, so that a picture's features depend on no other; their scales and shifts learn.
    SigLIP, whose files come in several layouts and at other sizes, has a class of its own.

    Args:
        model: timm's name.
        weights: a .safetensors or torch file under timm's names, a folder with model.safetensors, or the hub's name of
            such a folder (timm/convnext_atto.d2_in1k). None: random weights.
        image_size: H = W in pixels; default: the model's own. Weights of a transformer fit the size of its training.
        options: other arguments of timm's model, such as drop_path_rate.
    """

    def __init__(
        self,
        model: str,
        weights: str | None = None,
        image_size: int | None = None,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.weights = weights
        self.net = _create(model, image_size, options or {})
        self.image_size = image_size or self.net.pretrained_cfg["input_size"][-1]
        self.mean, self.std = (self.net.pretrained_cfg[name] for name in ("mean", "std"))
        self.prefix = getattr(self.net, "num_prefix_tokens", 0)
        self.channels_last = getattr(self.net, "output_fmt", None) == "NHWC"
        self.unused, shape = self._try_out(model)
        _, self.num_tokens, self.width = shape

    def _try_out(self, model: str) -> tuple[tuple[str, ...], torch.Size]:
        """Run without computing anything -> (names of modules that had no part in it, now removed; features' shape)."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        called: set[nn.Module] = set()
        hooks = [m.register_forward_hook(lambda module, *_: called.add(module)) for m in self.net.modules()]
        self.eval()
        try:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                shape = self(torch.zeros(1, 3, self.image_size, self.image_size)).shape
        except (AssertionError, RuntimeError, ValueError) as error:
            raise ValueError(f"TimmEncoder: {model} has no features at {self.image_size} pixels ({error})") from error
        for hook in hooks:
            hook.remove()
        self.train()
        unused = tuple(name for name, child in self.net.named_children() if called.isdisjoint(child.modules()))
        for name in unused:
            setattr(self.net, name, nn.Identity())
        return unused, shape

    def train(self, mode: bool = True) -> TimmEncoder:
        super().train(mode)
        for module in self.net.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        if not len(image):  # which not all of timm's models can take
            return image.new_zeros(0, self.num_tokens, self.width)
        features = self.net.forward_features(normalised(image, self.mean, self.std))
        if features.ndim == 3:
            return features[:, self.prefix :]
        return features.flatten(1, 2) if self.channels_last else features.flatten(2).mT

    def load_pretrained(self) -> None:
        """Load `weights`. Raises ValueError naming the file, and the first tensor that does not fit."""
        if self.weights is None:
            return
        path = locate(self.weights, TENSORS)
        path = path / TENSORS if path.is_dir() else path
        after = tuple(f"{name}." for name in self.unused)
        fit(self.net, {name: x for name, x in read_tensors(path).items() if not name.startswith(after)}, path)


def _create(model: str, image_size: int | None, options: dict[str, Any]) -> nn.Module:
    """Raises ValueError where timm cannot, or where the model has no `forward_features`."""
    import timm

    config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if config is None:
        raise ValueError(f"TimmEncoder: timm has no model {model!r}")
    settings = {**options, "img_size": image_size} if image_size and config.fixed_input_size else options
    try:
        net = timm.create_model(model, pretrained=False, checkpoint_path="", **settings)
    except (AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"TimmEncoder: timm cannot build {model} with {settings} ({error})") from error
    if not hasattr(net, "forward_features"):
        raise ValueError(f"TimmEncoder: timm's {model} is a {type(net).__name__}, which has no forward_features")
    return net
