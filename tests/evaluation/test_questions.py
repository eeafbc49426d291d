"""Each metric of answers on cases worked by hand, at its thresholds; ANLS also beside the package anls."""

import random

import pytest
from anls import anls_score

from unifluid.evaluation.averages import CAPTIONS, QUESTIONS, average
from unifluid.evaluation.questions import (
    ANLS,
    ExactMatch,
    LetterMatch,
    NumberMatch,
    RelaxedAccuracy,
    SoftMatch,
    VQAConsensus,
    edit_distance,
    normalise_vqa,
)

CASES = [
    (ExactMatch(), "yes", ["yes"], 1), (ExactMatch(), "Yes", ["yes"], 0), (ExactMatch(lower=True), "Yes", ["yes"], 1),
    (ExactMatch(), " yes ", ["no", "yes"], 1), (ExactMatch(), "ye", ["yes"], 0),
    (NumberMatch(), "two", ["2"], 1), (NumberMatch(), "Twenty", ["20"], 1), (NumberMatch(), "none", ["0"], 1),
    (NumberMatch(), "21", ["twenty"], 0), (NumberMatch(), "twenty one", ["21"], 0), (NumberMatch(), "2.0", ["2"], 0),
    (LetterMatch(), "The answer is B.", ["The answer is B."], 1),
    (LetterMatch(), "the answer is b. because", ["The answer is B."], 1),
    (LetterMatch(), "I think the answer is B.", ["The answer is B."], 0), (LetterMatch(), "B", ["The answer is B."], 0),
    (LetterMatch(), "The answer is B", ["The answer is B."], 0),
    (SoftMatch(), "cat", ["cat"] + ["dog"] * 9, 1 / 3), (SoftMatch(), "cat", ["cat"] * 2 + ["dog"] * 8, 2 / 3),
    (SoftMatch(), "cat", ["cat"] * 3 + ["dog"] * 7, 1), (SoftMatch(), "Cat", ["cat"] * 10, 0),
    *((VQAConsensus(), "cat", ["cat"] * n + ["dog"] * (10 - n), v) for n, v in enumerate((0, 0.3, 0.6, 0.9, 1, 1))),
    (VQAConsensus(), "The Cat!", ["cat"] * 4 + ["dog"] * 6, 1), (VQAConsensus(), "The Cat!", ["cat"] * 10, 0),
    (VQAConsensus(), "two dogs", ["2 dogs"] * 4 + ["dogs"] * 6, 1), (VQAConsensus(), "a\tb", ["a b"] * 10, 1),
    (ANLS(), "abcd", ["abcd"], 1), (ANLS(), "abcx", ["abcd"], 0.75), (ANLS(), "abxx", ["abcd"], 0),
    (ANLS(), "abcdx", ["zzz", "abcd"], 0.8), (ANLS(), "A  b", ["a b"], 1), (ANLS(), "", ["a"], 0),
    (RelaxedAccuracy(), "105", ["100"], 1), (RelaxedAccuracy(), "105.1", ["100"], 0),
    (RelaxedAccuracy(), "95", ["100"], 1), (RelaxedAccuracy(), "94.9", ["100"], 0),
    (RelaxedAccuracy(), "12%", ["0.12"], 1), (RelaxedAccuracy(), "0", ["0"], 1), (RelaxedAccuracy(), "0.0", ["0"], 0),
    (RelaxedAccuracy(), "Yes", ["yes"], 1), (RelaxedAccuracy(), "1,000", ["1000"], 0),
    (RelaxedAccuracy(), "nan", ["nan"], 1),
    (RelaxedAccuracy(), "-104", ["-100"], 1), (RelaxedAccuracy(), "inf", ["5"], 0),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "answer", "references", "expected"), CASES)
def test_by_hand(metric, answer, references, expected):
    assert metric(answer, references) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The dog, a cat", "dog cat"),
        ("1,000 people", "1000 people"),  # a comma between digits: all marks go, nothing takes their place
        ("left/right", "left right"),
        ("left / right", "left right"),
        ("5.0", "5.0"),
        ("a.m.", "am"),
        ("none", "0"),
        ("dont", "don't"),
        ("yall'd've", "y'all'd've"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("she'll well were", "she'll well were"),
    ],
)
def test_normalisation(text, expected):
    assert normalise_vqa(text) == expected


def test_anls_is_the_packages_where_that_is_the_official_one():
    rng, metric = random.Random(0), ANLS()
    for _ in range(2000):
        texts = ["".join(rng.choices("abc ", k=rng.randint(1, 7))).strip() or "a" for _ in range(3)]
        answer, *references = texts
        theirs = anls_score(prediction=answer, gold_labels=references, threshold=0.5)
        if theirs != 0.5:  # there the package counts what the definition does not
            assert metric(answer, references) == pytest.approx(theirs), texts


def test_edit_distance():
    assert [edit_distance(*pair) for pair in (("kitten", "sitting"), ("", "abc"), ("abc", "abc"), ("ab", "ba"))] == [
        3,
        3,
        0,
        2,
    ]


def test_without_references_there_is_no_score():
    with pytest.raises(ValueError, match="only be scored beside references"):
        ExactMatch()("a", [])


def test_averages_are_over_all_tasks():
    assert (len(CAPTIONS), len(QUESTIONS), len(set(QUESTIONS))) == (4, 20, 20)
    scores = dict.fromkeys(QUESTIONS, 0.5) | {"okvqa/accuracy": 0.9}
    assert average(scores, "qa_avg") == pytest.approx(52)
    with pytest.raises(ValueError, match="cap_avg needs 4 scores, 4 are missing: coco/cider, textcaps/cider"):
        average(scores, "cap_avg")
