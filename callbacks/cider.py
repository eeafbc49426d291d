"""CIDEr and the other scores of captions, on schedule and on a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L

from callbacks.blocks import Outcome
from callbacks.texts import TextEvaluator
from datamodules.base import ExampleDataset
from datamodules.formats.jsonl import write_json
from unifluid.evaluation.captions import caption_scores, check_metrics
from unifluid.evaluation.ptb import CaptionTokenizer, JavaPTB
from unifluid.evaluation.scores import Score
from unifluid.sequence import Example


class CIDEr(TextEvaluator):
    """`captions/cider`, `captions/bleu1` … `bleu4`, `captions/rouge_l`, and `captions/meteor` where asked for.

    An image's references are `meta["captions"]`, or its one caption; what it is called is `meta["image_id"]`, or the
    example's id. Captions are gathered over ranks and scored once, since CIDEr's document frequencies are those of all
    references. They are kept as results/PREFIX-captions.json, in COCO's format of results.

    Args:
        dataset: images to describe (task caption), one example an image.
        metrics: some of cider, bleu, rouge_l, meteor.
        tokenizer: Stanford's in Java, as the field has it (the default), or its rules in Python (`evaluation.ptb`).
        n: images, from the first; null for all.
        sampling, prefix, seed, weights, show, every, at_end, …: see `TextEvaluator` and `Evaluator`.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        metrics: Sequence[str] = ("cider", "bleu", "rouge_l"),
        tokenizer: CaptionTokenizer | None = None,
        prefix: str = "captions",
        n: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, n, **kwargs)
        if dataset.task != "caption":
            raise ValueError(f"CIDEr needs a data set of task caption, got {dataset.task}")
        self.metrics, self.tokenizer = tuple(metrics), tokenizer or JavaPTB()

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        check_metrics(self.metrics)
        self.tokenizer.load()
        seen: set[str] = set()
        for index in range(self.n):
            example = self.dataset.at(index, pictures=())
            if example is not None and (image := image_id(example)) in seen:
                raise ValueError(f"{self.prefix}: image {image} comes twice, CIDEr needs one example an image")
            seen |= set() if example is None else {image}

    def about(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.name, "metrics": ", ".join(self.metrics)}

    def judge_text(self, item: Example, text: str) -> Outcome:
        references = item.meta.get("captions") or [item.caption]
        return {"image_id": image_id(item), "real": list(references)}

    def summary(self, outcomes: list[Outcome]) -> dict[str, Score]:
        captions = {str(outcome["image_id"]): outcome["text"] for outcome in outcomes}
        references = {str(outcome["image_id"]): outcome["real"] for outcome in outcomes}
        return caption_scores(captions, references, self.tokenizer, self.metrics)

    def write(self, folder: Path, name: str, outcomes: list[Outcome]) -> None:
        results = [{"image_id": outcome["image_id"], "caption": outcome["text"]} for outcome in outcomes]
        write_json(folder / f"{name}-captions.json", results)


def image_id(example: Example) -> int | str:
    """What the image of an example is called in results."""
    return example.meta.get("image_id", example.id)
