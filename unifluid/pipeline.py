"""A trained model in three lines of Python:

>>> pipeline = unifluid.load("runs/demo/last.ckpt")
>>> pipeline.generate(["a red circle"])[0].save("circle.png")
>>> pipeline.answer("circle.png", "what colour is the circle?")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from datamodules.images import read_image, to_image, to_tensor
from unifluid.checkpoints import Weights, read
from unifluid.configs import ALLOWED
from unifluid.decoding.images import decode, generate_images
from unifluid.decoding.prefix import Progress
from unifluid.decoding.sampling import ImageSampling, check_sampling
from unifluid.decoding.text import TextSampling, generate_text
from unifluid.modules.unifluid import UniFluid
from unifluid.sequence import Example

File = str | Path | Image.Image | Tensor  # a file, an open picture, or uint8 (3, H, W)
Picture = File | tuple[File, ...]  # a tuple, in a list of pictures: looked at together
Precision = Literal["32-true", "bf16-mixed"]
PictureWatch = Callable[[list[Image.Image]], None]  # the pictures of a batch after every token, as far as drawn
ONCE = {"candidates": 1}  # edits have no prompt that could be read back
GREY = torch.tensor(232, dtype=torch.uint8)
M = TypeVar("M", bound=nn.Module)


def load(
    path: str | Path,
    weights: Weights | None = None,
    device: str | None = None,
    precision: Precision = "32-true",
    allow: Sequence[str] = (),
) -> Pipeline:
    """The model in a checkpoint or an exported folder, ready to use.

    Args:
        path: a checkpoint, the folder of a run, or an exported folder.
        weights: ema or raw; default: the EMA where there is one.
        device: cpu, cuda, cuda:1, …; default: the GPU where there is one.
        precision: of drawing and writing; bf16-mixed keeps the weights in fp32.
        allow: packages, beside the kit's own, whose classes the checkpoint may name.

    Raises FileNotFoundError where there is nothing; ValueError where it is damaged, names a class that is not trusted,
    is no `unifluid.UniFluid`, or where the device is missing or full. The message names the file or the device.
    """
    stored = read(path, weights)
    module = stored.build((*ALLOWED, *allow))
    if not isinstance(module, UniFluid):
        raise ValueError(f"{path}: holds {stored.config['class_path']}, which neither draws nor writes")
    return Pipeline(to_device(module, device), stored.weights, precision)


def choose_device(device: str | None = None) -> torch.device:
    """Default: the GPU where there is one. Raises ValueError naming a device that is unknown or missing."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch's words for a device that is unknown or missing
        raise ValueError(f"device {device!r}: {str(error).splitlines()[0]}") from error
    if chosen.type == "meta":
        raise ValueError("device 'meta' computes nothing: give cpu or cuda")
    return chosen


def to_device(module: M, device: str | None = None) -> M:
    """`module` moved to `choose_device(device)`. Raises ValueError naming the device."""
    chosen = choose_device(device)
    try:
        return module.to(chosen)
    except RuntimeError as error:  # the device is full
        raise ValueError(f"device {str(chosen)!r}: {str(error).splitlines()[0]}") from error


class Pipeline:
    """Draws, describes, answers and edits. `weights` says whether its weights are the EMA or raw; `sampling` is what
    pictures are drawn with unless told otherwise, the model's own.

    A picture given is a file, an open `PIL.Image`, or a uint8 tensor (3, H, W), of any size; a tuple, in a list of
    pictures, is looked at together. Pictures made are `PIL.Image`s of the image tokenizer's size.

    All methods take

    - `sampling`, keyword arguments of `ImageSampling` (steps, guidance, order, …) for pictures and of `TextSampling`
      (beams, temperature, …) for text;
    - `seed` and `indices`: result i is a function of (seed, indices[i]) and its input, whatever is made beside it;
      `indices` default to 0, 1, …;
    - `progress`, called with (items done, of how many);
    - `watch`, where pictures are made: called with the pictures of a batch, as far as drawn, after every token.

    They raise ValueError for an empty text, a picture that cannot be read, or a setting out of range.
    """

    def __init__(self, module: UniFluid, weights: Weights = "raw", precision: Precision = "32-true"):
        self.module, self.weights, self.precision = module, weights, precision
        self.sampling = ImageSampling.from_settings(module.sampling, "model.sampling")

    def generate(
        self,
        prompts: str | Sequence[str],
        seed: int = 0,
        indices: Sequence[int] | None = None,
        progress: Progress | None = None,
        watch: PictureWatch | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """One picture for each of n prompts -> n pictures."""
        examples = [Example(str(i), "generate", prompt=p) for i, p in enumerate(_texts(prompts, "prompt"))]
        return self._draw(examples, seed, indices, progress, watch, sampling)

    def edit(
        self,
        images: Picture | Sequence[Picture],
        instructions: str | Sequence[str],
        seed: int = 0,
        indices: Sequence[int] | None = None,
        progress: Progress | None = None,
        watch: PictureWatch | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """Each picture changed by its instruction; one picture or one instruction serves all of the other.

        Drawn once, however many candidates the model's own settings say. Raises ValueError where there are several of
        both and not as many of each.
        """
        pairs = _pairs(_pictures(images), _texts(instructions, "instruction"))
        examples = [Example(str(i), "edit", image=x, instruction=t) for i, (x, t) in enumerate(pairs)]
        return self._draw(examples, seed, indices, progress, watch, ONCE | sampling)

    def checked(self, task: Literal["generate", "edit"], sampling: dict[str, Any]) -> ImageSampling:
        """What pictures of `task` are drawn with, given `sampling`. Raises ValueError naming what is wrong."""
        settings = replace(self.sampling, **((ONCE if task == "edit" else {}) | sampling))
        check_sampling(settings, self.module.model, self.module.formatter, task, [task])
        return settings

    def caption(
        self,
        images: Picture | Sequence[Picture],
        prompt: str = "caption en",
        seed: int = 0,
        indices: Sequence[int] | None = None,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> list[str]:
        """A description of each picture; `prompt` asks for it as in training (PaliGemma's by default)."""
        examples = [Example(str(i), "caption", image=x, prompt=prompt) for i, x in enumerate(_pictures(images))]
        return self._write(examples, seed, indices, progress, sampling)

    def answer(
        self,
        images: Picture | Sequence[Picture],
        questions: str | Sequence[str],
        seed: int = 0,
        indices: Sequence[int] | None = None,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> list[str]:
        """An answer to each question about its picture; one picture or one question serves all of the other.

        Raises ValueError where there are several of both and not as many of each.
        """
        pairs = _pairs(_pictures(images), _texts(questions, "question"))
        examples = [Example(str(i), "answer", image=x, question=t) for i, (x, t) in enumerate(pairs)]
        return self._write(examples, seed, indices, progress, sampling)

    def _draw(
        self,
        examples: list[Example],
        seed: int,
        indices: Sequence[int] | None,
        progress: Progress | None,
        watch: PictureWatch | None,
        sampling: dict[str, Any],
    ) -> list[Image.Image]:
        arguments = (self.module.model, self.module.formatter, examples, replace(self.sampling, **sampling), seed)
        seen = None if watch is None else lambda tokens, drawn: watch(self._so_far(tokens, drawn))
        with self._autocast():
            return list(map(to_image, generate_images(*arguments, indices, progress, seen)))

    def _so_far(self, tokens: Tensor, drawn: Tensor) -> list[Image.Image]:
        """Pictures half drawn: tokens (M, N, d) decoded, and grey where `drawn` (M, N) says that there is none yet."""
        images, grid = decode(self.module.model, tokens), self.module.model.image_tokenizer.grid
        shown = interpolate(drawn.float().view(len(drawn), 1, *grid), images.shape[-2:]).cpu()
        return list(map(to_image, torch.where(shown > 0, images.cpu(), GREY)))

    def _write(
        self,
        examples: list[Example],
        seed: int,
        indices: Sequence[int] | None,
        progress: Progress | None,
        sampling: dict[str, Any],
    ) -> list[str]:
        arguments = (self.module.model, self.module.formatter, examples, TextSampling(**sampling), seed)
        with self._autocast():
            return generate_text(*arguments, indices, progress)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.module.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")


def _texts(texts: str | Sequence[str], what: str) -> list[str]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(texts):
        if not text.strip():  # the empty prompt is guidance's null prompt, never a user's
            raise ValueError(f"{what} {i + 1} of {len(texts)} is empty")
    return texts


def _pictures(images: Picture | Sequence[Picture]) -> list[Tensor | tuple[Tensor, ...]]:
    alone = isinstance(images, str | Path | Image.Image) or (isinstance(images, Tensor) and images.ndim == 3)
    several = [images] if alone else images
    return [tuple(map(_tensor, image)) if isinstance(image, tuple) else _tensor(image) for image in several]


def _tensor(image: File) -> Tensor:
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return to_tensor(image)
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"a picture must be uint8 (3, H, W), got {image.dtype} {tuple(image.shape)}")
    return image


def _pairs(pictures: list[Any], texts: list[str]) -> list[tuple[Any, str]]:
    n = max(len(pictures), len(texts))
    if not {len(pictures), len(texts)} <= {1, n}:
        raise ValueError(f"{len(pictures)} pictures and {len(texts)} texts: give one of either, or as many of both")
    pictures, texts = (x * n if len(x) == 1 else x for x in (pictures, texts))
    return list(zip(pictures, texts, strict=True))
