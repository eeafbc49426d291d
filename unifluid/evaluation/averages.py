"""The paper's two averages over downstream tasks: of 4 captioning scores (CIDEr · 100) and of 20 of answers."""

from __future__ import annotations

from collections.abc import Mapping

CAPTIONS = tuple(f"{task}/cider" for task in ("coco", "textcaps", "screen2words", "widgetcap"))
QUESTIONS = (
    *(f"{task}/accuracy" for task in ("okvqa", "aokvqa_mc", "aokvqa_da", "gqa", "nlvr2", "ai2d", "scienceqa")),
    *(f"{task}/mean_of_types" for task in ("rsvqa_lr", "rsvqa_hr", "rsvqa_hr_phili")),
    *(f"{task}/accuracy" for task in ("chartqa_human", "chartqa_augmented", "vizwiz", "tallyqa_simple")),
    *(f"{task}/accuracy" for task in ("tallyqa_complex", "countbenchqa", "textvqa", "docvqa", "infovqa", "stvqa")),
)
AVERAGES = {"cap_avg": CAPTIONS, "qa_avg": QUESTIONS}


def average(scores: Mapping[str, float], name: str) -> float:
    """`cap_avg` or `qa_avg`, in points of 100. Raises ValueError naming what is missing."""
    missing = [key for key in AVERAGES[name] if key not in scores]
    if missing:
        raise ValueError(f"{name} needs {len(AVERAGES[name])} scores, {len(missing)} are missing: {', '.join(missing)}")
    return 100 * sum(scores[key] for key in AVERAGES[name]) / len(AVERAGES[name])
