"""Metrics of question answering: an answer beside its references -> how right it is, 0 to 1. Pure functions of text.

Each is named by class_path in YAML; which task uses which is in experiments/transfer/.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence

from unifluid.evaluation.scores import Score
from unifluid.interfaces import Recorded


class AnswerMetric(Recorded, ABC):
    """How right one answer is."""

    @abstractmethod
    def score(self, answer: str, references: Sequence[str]) -> float:
        """0 (wrong) to 1 (right). Raises ValueError where there are no references."""

    def __call__(self, answer: str, references: Sequence[str]) -> float:
        if not references:
            raise ValueError("an answer can only be scored beside references")
        return self.score(answer.strip(), [reference.strip() for reference in references])


def answer_scores(right: Sequence[float], types: Sequence[str] | None = None) -> dict[str, Score]:
    """How right each answer is -> `accuracy`, their mean; with the type of each question also a score for every type,
    and `mean_of_types`, unweighted. Nothing where there are no answers."""
    if not right:
        return {}
    scores = {"accuracy": Score.of_values(right)}
    if types is not None:
        groups: dict[str, list[float]] = defaultdict(list)
        for kind, value in zip(types, right, strict=True):
            groups[kind].append(value)
        by_type = {kind: Score.of_values(values) for kind, values in sorted(groups.items())}
        scores |= by_type | {"mean_of_types": Score.mean(list(by_type.values()))}
    return scores


class ExactMatch(AnswerMetric):
    """Equal to one of the references: A-OKVQA multiple choice, GQA, NLVR2, AI2D; in lower case RSVQA.

    Args:
        lower: whether case does not count.
    """

    def __init__(self, lower: bool = False):
        self.lower = lower

    def score(self, answer: str, references: Sequence[str]) -> float:
        texts = [text.lower() if self.lower else text for text in (answer, *references)]
        return float(texts[0] in texts[1:])


class NumberMatch(AnswerMetric):
    """Equal, with number words up to twenty as digits on both sides: TallyQA, CountBenchQA."""

    WORDS = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty"
    ).split()

    def score(self, answer: str, references: Sequence[str]) -> float:
        return float(self._digits(answer) in map(self._digits, references))

    def _digits(self, text: str) -> str:
        word = text.lower()
        if word == "none":
            return "0"
        return str(self.WORDS.index(word)) if word in self.WORDS else text


class LetterMatch(AnswerMetric):
    """The letter of "the answer is B." at the start of the text, in any case; anything else is wrong: ScienceQA."""

    PATTERN = re.compile(r"the answer is ([a-z])\.")

    def score(self, answer: str, references: Sequence[str]) -> float:
        letter = self._letter(answer)
        return float(letter is not None and letter in map(self._letter, references))

    def _letter(self, text: str) -> str | None:
        found = self.PATTERN.match(text.lower())
        return found[1] if found else None


class SoftMatch(AnswerMetric):
    """min(1, n/3), n references equal to the answer as it is: OKVQA, A-OKVQA direct answers, VizWiz as PaliGemma."""

    def score(self, answer: str, references: Sequence[str]) -> float:
        return min(1.0, list(references).count(answer) / 3)


class VQAConsensus(AnswerMetric):
    """VQA accuracy (Antol et al., 2015, arXiv 1505.00468; visualqa.org/evaluation): the mean, over every way of leaving
    one reference out, of min(1, n/3). Where the references disagree, punctuation, articles, number words and
    contractions are normalised on both sides: VQAv2, TextVQA."""

    def score(self, answer: str, references: Sequence[str]) -> float:
        answer, *references = (re.sub("[\n\t]", " ", text).strip() for text in (answer, *references))
        if len(set(references)) > 1:
            answer, *references = map(normalise_vqa, (answer, *references))
        right = [reference == answer for reference in references]
        if len(right) == 1:
            return float(right[0])
        return math.fsum(min(1.0, (sum(right) - one) / 3) for one in right) / len(right)


class ANLS(AnswerMetric):
    """Average normalised Levenshtein similarity (Biten et al., 2019, arXiv 1907.00490): 1 − d, the edit distance over
    the longer length, where d < .5, else 0; of the best reference: DocVQA, InfoVQA, ST-VQA."""

    THRESHOLD = 0.5

    def score(self, answer: str, references: Sequence[str]) -> float:
        answer, *references = (" ".join(text.lower().split()) for text in (answer, *references))
        return max(self._similarity(answer, reference) for reference in references)

    def _similarity(self, a: str, b: str) -> float:
        longer = max(len(a), len(b))
        distance = edit_distance(a, b) / longer if longer else 0.0
        return 1 - distance if distance < self.THRESHOLD else 0.0


class RelaxedAccuracy(AnswerMetric):
    """Numbers within 5 % of the reference, other texts equal, in lower case (Masry et al., 2022, arXiv 2203.10244):
    ChartQA. "12%" is .12; beside a reference of 0 only an equal text is right."""

    TOLERANCE = 0.05

    def score(self, answer: str, references: Sequence[str]) -> float:
        return float(any(self._agrees(answer.lower(), reference.lower()) for reference in references))

    def _agrees(self, answer: str, reference: str) -> bool:
        a, b = _number(answer), _number(reference)
        if a is None or not b:
            return answer == reference
        return abs(a - b) / abs(b) <= self.TOLERANCE


def _number(text: str) -> float | None:
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: fewest characters inserted, deleted or replaced to make b of a."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


# -- how VQA accuracy normalises text ----------------------------------------------------------------------------------

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = {"a", "an", "the"}
NUMBER_WORDS = {"none": "0"} | {word: str(n) for n, word in enumerate(NumberMatch.WORDS[:11])}
# Spellings that lack just one apostrophe are mended. (Not here: she'll, we'll, … whose mended forms are other words.)
CONTRACTIONS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's "
    "there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're "
    "why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
).split()
MENDED = {word[:i] + word[i + 1 :]: word for word in CONTRACTIONS for i, x in enumerate(word) if x == "'"}
MENDED["somebody'd"] = "somebodyd"  # so in the official table


def normalise_vqa(text: str) -> str:
    """An answer as VQA's evaluation compares it."""
    made, comma = text, re.search(r"\d,\d", text) is not None
    for mark in PUNCTUATION:
        apart = f"{mark} " in text or f" {mark}" in text
        made = made.replace(mark, "" if comma or apart else " ")
    made = re.sub(r"\.(?!\d)", "", made)
    words = (NUMBER_WORDS.get(word, word) for word in made.lower().split())
    return " ".join(MENDED.get(word, word) for word in words if word not in ARTICLES)
