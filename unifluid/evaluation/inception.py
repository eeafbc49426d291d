"""The network of the Fréchet Inception distance: Inception-v3 of 2015 as the field uses it, through torch-fidelity.

The weights are those that TensorFlow's FID read, converted for PyTorch. They are read from a file: torch-fidelity would
download them, and unpickle whatever is there as code.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unifluid.interfaces import FeatureExtractor

NAMES = ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth")  # the same bytes
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
BATCH = 32  # images at once


class Inception(FeatureExtractor):
    """Pool3 features (2048) of the FID's Inception-v3: a Fréchet distance on them is called `fid`, on no others.

    Args:
        weights: the file of weights; by default one of `NAMES` in torch.hub's cache.
        sha256: what the file must hash to. With another one the distance is called frechet/inception.
    """

    name = "inception"

    def __init__(self, weights: str | None = None, sha256: str = SHA256):
        self.weights, self.sha256 = weights, sha256
        self._net: nn.Module | None = None

    @property
    def distance(self) -> str:
        return "fid" if self.sha256 == SHA256 else super().distance

    def about(self) -> dict[str, Any]:
        return {"network": self.name, "network_sha256": self.sha256, "torch_fidelity": version("torch-fidelity")}

    def load(self) -> None:
        """Raises FileNotFoundError or ValueError, naming the file; no stored code is ever run."""
        if self._net is not None:
            return
        path = self._file()
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ValueError(f"{path}: not the weights of FID's Inception: its sha256 is {found}, not {self.sha256}")
        try:
            torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises nearly anything on a file of another kind
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: no file of plain tensors ({reason})") from error
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        layers = ["2048", "logits_unbiased"]
        try:
            net = FeatureExtractorInceptionV3(
                "inception-v3-compat", layers, feature_extractor_weights_path=io.BytesIO(data)
            )
        except RuntimeError as error:
            raise ValueError(f"{path}: weights of another network ({str(error).splitlines()[0]})") from error
        self._net = net

    def extract(self, images: Sequence[Tensor], device: torch.device) -> Tensor:
        return self.extract_with_logits(images, device)[0]

    def extract_with_logits(self, images: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
        """Images, each uint8 (3, H, W), all of one size -> features (n, 2048) and logits without bias (n, 1008), fp32.

        In full precision whatever surrounds it: bf16 would move features by 2 %.
        """
        self.load()
        net, made = self._net.to(device), []
        full = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False), full:
            for start in range(0, len(images), BATCH):
                made.append([part.cpu() for part in net(torch.stack(list(images[start : start + BATCH])).to(device))])
        features, logits = zip(*made, strict=True)
        return torch.cat(features), torch.cat(logits)

    def _file(self) -> Path:
        if self.weights is not None:
            if not Path(self.weights).is_file():
                raise FileNotFoundError(2, "no such file of Inception weights", self.weights)
            return Path(self.weights)
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        found = next((folder / name for name in NAMES if (folder / name).is_file()), None)
        if found is None:
            raise ValueError(
                f"FID needs the Inception weights {NAMES[0]} (95,628,359 bytes, released with torch-fidelity): put the "
                f"file into {os.fspath(folder)}, or name it by features.init_args.weights"
            )
        return found
