"""Corpus scores are pycocoevalcap's own, whatever the order; CIDEr also beside its formula."""

import math
from collections import Counter

import pytest

from unifluid.evaluation import captions as module
from unifluid.evaluation.captions import caption_scores
from unifluid.evaluation.ptb import PythonPTB

REFERENCES = {
    "1": ["a man rides a brown horse", "a man on a horse in a field", "someone riding a horse"],
    "2": ["two cats on a bed", "a pair of cats lying on a bed"],
    "3": ["a red bus in the street", "a bus on the road", "the red bus stops"],
}
CAPTIONS = {"1": "a man on a brown horse", "2": "two dogs on a sofa", "3": ""}
WORDS = PythonPTB()


def grams(text: str) -> Counter:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


def cider_d(captions, references):
    """Vedantam et al., equations 1 to 4, with the clipping and length penalty of the D variant."""
    document = Counter(g for texts in references.values() for g in set().union(*map(grams, texts)))
    total = math.log(len(references))

    def vectors(text):
        found = [{} for _ in range(4)]
        for gram, count in grams(text).items():
            found[len(gram) - 1][gram] = count * (total - math.log(max(1, document[gram])))
        return found, sum(count for gram, count in grams(text).items() if len(gram) == 2)

    scores = []
    for image, caption in captions.items():
        (mine, length), per = vectors(caption), []
        for reference in references[image]:
            theirs, other = vectors(reference)
            value = 0.0
            for a, b in zip(mine, theirs, strict=True):
                norms = math.hypot(*a.values()) * math.hypot(*b.values())
                dot = sum(min(x, b[g]) * b[g] for g, x in a.items() if g in b)
                value += dot / norms * math.exp(-((length - other) ** 2) / 72) if norms else 0.0
            per.append(value / 4)
        scores.append(10 * sum(per) / len(per))
    return scores


def test_cider_is_its_formula():
    found = caption_scores(CAPTIONS, REFERENCES, WORDS, ["cider"])["cider"]
    expected = cider_d(CAPTIONS, REFERENCES)
    assert found.value == pytest.approx(sum(expected) / 3, rel=1e-9) and found.n == 3
    shuffled = {i: CAPTIONS[i] for i in ("3", "1", "2")}
    assert caption_scores(shuffled, REFERENCES, WORDS, ["cider"])["cider"].value == pytest.approx(
        found.value, rel=1e-12
    )


def test_scores_are_the_packages():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    written = {i: [text] for i, text in CAPTIONS.items()}
    found = caption_scores(CAPTIONS, REFERENCES, WORDS)
    assert [found[f"bleu{n}"].value for n in (1, 2, 3, 4)] == Bleu(4).compute_score(REFERENCES, written, verbose=0)[0]
    assert found["rouge_l"].value == pytest.approx(Rouge().compute_score(REFERENCES, written)[0])


def test_perfect_and_lonely_captions():
    perfect = {i: texts[0] for i, texts in REFERENCES.items()}
    alone = {i: [text] for i, text in perfect.items()}
    scores = caption_scores(perfect, alone, WORDS)
    assert scores["cider"].value == pytest.approx(10) and scores["bleu4"].value == pytest.approx(1, abs=1e-6)
    one = caption_scores({"1": "a cat"}, {"1": ["a cat"]}, WORDS, ["cider"])["cider"]
    assert one.value == 0 and one.low is None  # log 1: a corpus of one image has no rare words


def test_nothing_is_left_out():
    with pytest.raises(ValueError, match="1 differ, first 3"):
        caption_scores({"1": "a", "2": "b"}, REFERENCES, WORDS)
    with pytest.raises(ValueError, match="1 differ, first 1"):
        caption_scores({"1": "a"}, {"1": []}, WORDS)
    with pytest.raises(ValueError, match="no captions"):
        caption_scores({}, {}, WORDS)
    with pytest.raises(ValueError, match="metrics must be some of cider, bleu, rouge_l, meteor, got spice"):
        caption_scores(CAPTIONS, REFERENCES, WORDS, ["spice"])


def test_meteor_needs_java(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="METEOR needs Java"):
        caption_scores(CAPTIONS, REFERENCES, WORDS, ["meteor"])


@pytest.mark.slow
def test_meteor_leaves_no_process():
    pytest.importorskip("pycocoevalcap")
    if module.shutil.which("java") is None:
        pytest.skip("there is no Java here")
    score = caption_scores(CAPTIONS, REFERENCES, WORDS, ["meteor"])["meteor"]
    assert 0.1 < score.value < 0.6
