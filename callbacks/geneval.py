"""Text-to-image prompts, judged by GenEval's rules."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from callbacks.blocks import Outcome, grouped
from callbacks.evaluator import DEFAULT_SAMPLING, Evaluator
from callbacks.sheet import ACCENT, FAINT, Cell, Line, save
from datamodules.base import ExampleDataset
from datamodules.geneval_prompts import GenEvalPrompts
from datamodules.images import to_image
from unifluid.decoding import ImageSampling, generate_images
from unifluid.decoding.prefix import Progress
from unifluid.evaluation.geneval import TAGS, Objects, score_images, summary
from unifluid.evaluation.scores import Score
from unifluid.interfaces import ColourClassifier, Detector
from unifluid.sequence import Example

SEARCH = 100  # prompts are looked for among the first SEARCH · n examples: synthetic data sets are endless


class GenEval(Evaluator):
    """`geneval/TAG`, and `geneval/overall` where all six tags are asked for: shares of images that show what was asked.

    The data set's examples carry GenEval's metadata (`tag`, `include`, `exclude`) in `meta`. With the official prompts
    and detector the scores are GenEval's; made prompts are called geneval_generated, and what a detector of boxes finds
    has the suffix _boxes. GenEval drifts from human judgement for strong models (arXiv 2512.16853).

    Args:
        detector, colours: who looks at the images: networks for photographs, the analyser for synthetic scenes.
        n: prompts of each tag, the first that the data set has; all it has where they are fewer; null for all.
        images_per_prompt: images drawn for each of them (the paper: 4).
        tags: which of GenEval's six categories to ask for.
        sampling: how images are drawn.
        keep: folder for the images, laid out as the official script reads them: 00000/metadata.jsonl,
            00000/samples/0000.png, …
        prefix: of the scores' names; by default as the prompts are called.
        dataset, seed, weights, show, every, at_end, …: see `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        detector: Detector,
        colours: ColourClassifier,
        n: int | None = 200,
        images_per_prompt: int = 1,
        tags: tuple[str, ...] = TAGS,
        sampling: ImageSampling = DEFAULT_SAMPLING,
        keep: str | None = None,
        prefix: str | None = None,
        **kwargs: Any,
    ):
        official = dataset.score_name if isinstance(dataset, GenEvalPrompts) else "geneval"
        super().__init__(dataset, (prefix or official) + detector.suffix + colours.suffix, sampling, **kwargs)
        if min(1 if n is None else n, images_per_prompt) < 1:
            raise ValueError(f"GenEval needs n and images_per_prompt of at least 1, got {n} and {images_per_prompt}")
        if not tags or not set(tags) <= set(TAGS):
            raise ValueError(f"GenEval.tags must be some of {', '.join(TAGS)}, got {', '.join(tags) or 'none'}")
        if keep is not None and self.weights == "both":
            raise ValueError("GenEval.keep is one folder: images of both weights would overwrite each other")
        self.detector, self.colours, self.keep = detector, colours, keep
        self.n, self.images_per_prompt, self.tags = len(dataset) if n is None else n, images_per_prompt, tuple(tags)

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Find files and prompts before anything else runs. Raises ValueError where there is no prompt of a tag."""
        self.detector.load()
        self.colours.load()
        missing, self._chosen = Counter(dict.fromkeys(self.tags, self.n)), list[int]()
        for i in range(min(len(self.dataset), SEARCH * self.n)):
            if not missing.total():
                break
            if missing[tag := self.dataset[i].meta.get("tag", "none")] > 0:
                missing[tag] -= 1
                self._chosen.append(i)
        absent = [tag for tag in self.tags if missing[tag] == self.n]
        if absent:
            raise ValueError(f"{self.prefix}: no {', '.join(absent)} prompt in its data set: set tags to what it has")

    def about(self) -> dict[str, Any]:
        prompts = {"prompts_sha256": self.dataset.sha256} if isinstance(self.dataset, GenEvalPrompts) else {}
        counts = {"images_per_prompt": self.images_per_prompt, "prompts_per_tag": self.n}
        return counts | prompts | self.detector.about() | self.colours.about()

    @property
    def size(self) -> int:
        return len(self._chosen) * self.images_per_prompt

    def item(self, index: int) -> Example:
        return self.dataset[self._chosen[index // self.images_per_prompt]]

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        images = generate_images(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        if self.keep is not None:
            for i, item, image in zip(indices, items, images, strict=True):
                metadata = {"prompt": item.condition, **item.meta}
                keep_image(Path(self.keep), *divmod(i, self.images_per_prompt), metadata, image)
        asked = [item.meta for item in items]
        judged = score_images(images, asked, self.detector, self.colours, module.device)
        outcomes = []
        for i, item, image, (right, objects) in zip(indices, items, images, judged, strict=True):
            outcomes.append({"tag": item.meta["tag"], "right": right})
            if i < self.show:
                found = [f"{d.name} {d.score:.2f}" for some in objects.values() for d in some]
                outcomes[-1] |= {"image": boxed(image, objects), "prompt": item.condition, "found": ", ".join(found)}
        return outcomes

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        return summary(grouped(outcomes, "tag", "right"))

    def cells(self, outcomes: list[Outcome]) -> list[Cell]:
        cells = []
        for outcome in outcomes:
            found = Line(f"found: {outcome['found'] or 'nothing'}", FAINT if outcome["right"] else ACCENT)
            cells.append(Cell([outcome["image"]], [Line(outcome["prompt"]), found]))
        return cells


def boxed(image: Tensor, objects: Objects) -> Tensor:
    """The image (3, H, W) uint8 with the boxes of what counted drawn on it."""
    boxes = [detection.box for some in objects.values() for detection in some]
    return draw_bounding_boxes(image, torch.tensor(boxes), colors="white") if boxes else image.clone()


def keep_image(folder: Path, prompt: int, sample: int, metadata: dict[str, Any], image: Tensor) -> None:
    """Put one image into the official layout, whole or not at all."""
    place = folder / f"{prompt:05d}"
    (place / "samples").mkdir(parents=True, exist_ok=True)
    (place / "metadata.jsonl").write_text(json.dumps(metadata) + "\n", encoding="utf-8")
    save(to_image(image), place / "samples" / f"{sample:04d}.png")
