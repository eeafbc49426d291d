"""CLIP (arXiv 2103.00020) as a judge: colours of objects for GenEval, and CLIPScore. The transformers library's model
from a local folder; its features equal open_clip's, and its PIL image processor is open_clip's transform to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms.v2.functional import crop

from unifluid.evaluation.mask2former import first_line, need_files
from unifluid.interfaces import ColourClassifier, Detection

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {c} {name}", "a photo of a {c}-colored {name}", "a photo of a {c} object")
GREY = torch.tensor(153, dtype=torch.uint8)  # outside an object's mask
BATCH = 16  # images at once
FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json")


class CLIP:
    """Normalised features of images and texts, in full precision whatever surrounds it.

    Args:
        folder: a CLIP model of the transformers library, such as openai/clip-vit-large-patch14.
    """

    def __init__(self, folder: str):
        self.folder = folder
        self._net: nn.Module | None = None

    def load(self) -> None:
        """Raises ValueError naming the folder and what is missing in it."""
        if self._net is not None:
            return
        need_files(self.folder, *FILES)
        from transformers import AutoTokenizer, CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        try:
            options = {"local_files_only": True}
            net = CLIPModel.from_pretrained(self.folder, use_safetensors=True, dtype=torch.float32, **options)
            self._processor = CLIPImageProcessorPil.from_pretrained(self.folder, **options)
            self._tokenizer = AutoTokenizer.from_pretrained(self.folder, **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{self.folder}: no CLIP of the transformers library ({first_line(error)})") from error
        self._net = net.requires_grad_(False).eval()

    def images(self, images: Sequence[Tensor], device: torch.device) -> Tensor:
        """Images, each uint8 (3, H, W) of any size -> features (n, F), of length 1."""
        self.load()
        net, made = self._net.to(device), []
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for start in range(0, len(images), BATCH):
                some = list(images[start : start + BATCH])
                x = self._processor(images=some, input_data_format="channels_first", return_tensors="pt").to(device)
                made.append(normalize(net.get_image_features(**x).pooler_output, dim=-1))
        return torch.cat(made)

    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Texts, cut at CLIP's 77 tokens -> features (n, F), of length 1."""
        self.load()
        net = self._net.to(device)
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(device)
            return normalize(net.get_text_features(**tokens).pooler_output, dim=-1)


class CLIPColours(ColourClassifier):
    """GenEval's colour classifier: zero-shot over ten colours, on the object cut out of the image.

    Args:
        folder: of the model; GenEval's is ViT-L/14 of OpenAI.
    """

    def __init__(self, folder: str):
        self.clip = CLIP(folder)
        self._classifiers: dict[str, Tensor] = {}

    def about(self) -> dict[str, Any]:
        return {"colours": f"CLIP of {Path(self.clip.folder).name}"}

    def load(self) -> None:
        self.clip.load()

    def colours(self, image: Tensor, detections: list[Detection], device: torch.device) -> list[str]:
        if not detections:
            return []
        crops = [cut_out(image, detection) for detection in detections]
        features = self.clip.images(crops, device)
        names = [detection.name for detection in detections]
        classifiers = torch.stack([self._classifier(name, device) for name in names])  # (n, colours, F)
        best = torch.einsum("nf,ncf->nc", features, classifiers).argmax(-1)
        return [COLOURS[i] for i in best.tolist()]

    def _classifier(self, name: str, device: torch.device) -> Tensor:
        """(colours, F): the mean of the templates' features, each and their mean of length 1."""
        if name not in self._classifiers:
            texts = [template.format(c=colour, name=name) for colour in COLOURS for template in TEMPLATES]
            features = self.clip.texts(texts, device).unflatten(0, (len(COLOURS), len(TEMPLATES)))
            self._classifiers[name] = normalize(features.mean(1), dim=-1)
        return self._classifiers[name].to(device)


def cut_out(image: Tensor, detection: Detection) -> Tensor:
    """The box of a detection in an image (3, H, W) uint8, grey outside its mask."""
    left, top, right, bottom = map(int, detection.box)
    masked = torch.where(torch.from_numpy(np.asarray(detection.mask, bool)), image, GREY)
    return crop(masked, top, left, bottom - top, right - left)


def clip_score(clip: CLIP, images: Sequence[Tensor], texts: Sequence[str], device: torch.device) -> list[float]:
    """CLIPScore (Hessel et al., 2021, arXiv 2104.08718) as text-to-image papers report it: 100 · max(cos, 0) of each
    image (3, H, W) uint8 and its text."""
    cosines = (clip.images(images, device) * clip.texts(texts, device)).sum(-1)
    return (100 * cosines.clamp(min=0)).tolist()
