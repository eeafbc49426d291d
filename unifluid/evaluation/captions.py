"""Caption scores of a whole corpus, by pycocoevalcap: CIDEr-D, BLEU, ROUGE-L, METEOR.

CIDEr's document frequencies are those of all references together, so scores of parts cannot be averaged: gather first.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from unifluid.evaluation.ptb import CaptionTokenizer
from unifluid.evaluation.scores import Score

METRICS = ("cider", "bleu", "rouge_l", "meteor")
Tokens = dict[str, list[str]]


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises ValueError for an unknown metric, or one that cannot run here."""
    if not metrics or not set(metrics) <= set(METRICS):
        raise ValueError(f"metrics must be some of {', '.join(METRICS)}, got {', '.join(metrics) or 'none'}")
    if "meteor" in metrics and shutil.which("java") is None:
        raise ValueError("METEOR needs Java (a JRE, 8 or newer): install it, or leave meteor out of metrics")


def caption_scores(
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    tokenizer: CaptionTokenizer,
    metrics: Sequence[str] = ("cider", "bleu", "rouge_l"),
) -> dict[str, Score]:
    """One caption and some references for each image -> `cider`, `bleu1` … `bleu4`, `rouge_l`, `meteor`.

    CIDEr-D is on the scale of its authors, 0 to 10: papers print it times 100. Intervals are those of a mean over
    images. Raises ValueError naming an image that has a caption and no references, or the other way round.
    """
    check_metrics(metrics)
    odd = captions.keys() ^ references.keys() or {i for i, texts in references.items() if not texts}
    if odd:
        raise ValueError(f"captions and references must be of the same images: {len(odd)} differ, first {min(odd)}")
    if not captions:
        raise ValueError("no captions to score")
    written, real = _tokenize(captions, references, tokenizer)
    scores: dict[str, Score] = {}
    for metric in metrics:
        scores |= _SCORERS[metric](real, written)
    return scores


def _tokenize(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], tokenizer: CaptionTokenizer
) -> tuple[Tokens, Tokens]:
    """All texts in one call: starting Java takes longer than tokenizing thousands of captions."""
    texts = [*captions.values(), *(text for image in captions for text in references[image])]
    tokens = iter(tokenizer.tokenize(texts))
    written = {image: [next(tokens)] for image in captions}
    return written, {image: [next(tokens) for _ in references[image]] for image in captions}


def _cider(real: Tokens, written: Tokens) -> dict[str, Score]:
    """Vedantam et al., 2015 (arXiv 1411.5726), in its D variant."""
    from pycocoevalcap.cider.cider import Cider

    return {"cider": Score.of_values(map(float, Cider().compute_score(real, written)[1]))}


def _bleu(real: Tokens, written: Tokens) -> dict[str, Score]:
    """Papineni et al., 2002; of the corpus, so it has no interval."""
    from pycocoevalcap.bleu.bleu import Bleu

    values, _ = Bleu(4).compute_score(real, written, verbose=0)
    return {f"bleu{n}": Score(float(value), len(written)) for n, value in enumerate(values, start=1)}


def _rouge(real: Tokens, written: Tokens) -> dict[str, Score]:
    """Lin, 2004."""
    from pycocoevalcap.rouge.rouge import Rouge

    return {"rouge_l": Score.of_values(map(float, Rouge().compute_score(real, written)[1]))}


def _meteor(real: Tokens, written: Tokens) -> dict[str, Score]:
    """Denkowski and Lavie, 2014; of the corpus."""
    with _meteor_process() as meteor:
        value, _ = meteor.compute_score(real, written)
    return {"meteor": Score(float(value), len(written))}


@contextlib.contextmanager
def _meteor_process() -> Iterator[Any]:
    """The package leaves its Java process to the garbage collector, and two pipes open."""
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    try:
        yield meteor
    finally:
        meteor.meteor_p.stdin.close()
        meteor.meteor_p.kill()
        meteor.meteor_p.wait()
        for pipe in (meteor.meteor_p.stdout, meteor.meteor_p.stderr):
            pipe.close()


_SCORERS = {"cider": _cider, "bleu": _bleu, "rouge_l": _rouge, "meteor": _meteor}
