"""What every evaluation of captions or answers shares: texts are written, judged one by one, and shown."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning as L

from callbacks.blocks import Outcome
from callbacks.evaluator import FirstItems
from callbacks.sheet import ACCENT, FAINT, INK, Cell, Line
from datamodules.base import ExampleDataset
from unifluid.decoding import TextSampling, generate_text
from unifluid.decoding.prefix import Progress
from unifluid.sequence import Example

GREEDY = TextSampling()


class TextEvaluator(FirstItems):
    """Writes a caption or answer for each of the first `n` examples.

    Args:
        sampling: how text is written; greedy by default.
    """

    def __init__(
        self,
        dataset: ExampleDataset,
        prefix: str,
        n: int | None = None,
        sampling: TextSampling = GREEDY,
        **kwargs: Any,
    ):
        super().__init__(dataset, prefix, sampling, n, **kwargs)

    @abstractmethod
    def judge_text(self, item: Example, text: str) -> Outcome:
        """What `summary` must know of one text."""

    def judge(
        self, module: L.LightningModule, items: list[Example], indices: list[int], progress: Progress
    ) -> list[Outcome]:
        texts = generate_text(module.model, module.formatter, items, self.sampling, self.seed, indices, progress)
        outcomes = []
        for i, item, text in zip(indices, items, texts, strict=True):
            outcomes.append({"id": item.id, "text": text, **self.judge_text(item, text)})
            if i < self.show:
                wanted = list(dict.fromkeys(item.meta.get("captions") or item.answers or (item.caption,)))
                shown = {"images": list(item.images), "question": item.question, "references": wanted}
                outcomes[-1] |= shown
        return outcomes

    def cells(self, outcomes: list[Outcome]) -> list[Cell]:
        cells = []
        for outcome in outcomes:
            lines = [Line(outcome["question"], FAINT)] if outcome["question"] else []
            lines.append(Line(outcome["text"] or "(nothing)", ACCENT if outcome.get("right") in (False, 0.0) else INK))
            lines += [Line(reference, FAINT) for reference in outcome["references"] if reference]
            cells.append(Cell(outcome["images"], lines))
        return cells
