"""Stanford's tokenizer, through the jar and in Python: equal on ordinary captions, and none is ever shifted."""

import itertools
import shutil

import pytest

from unifluid.evaluation import ptb
from unifluid.evaluation.ptb import JavaPTB, PythonPTB

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java here")

WHO = ["A man", "the woman's dog", "two boys' hats", "a black-and-white cat", "it's a bird that", "someone who doesn't"]
DOES = ["can't see", "is sitting on", "are gonna eat", 'holds a "stop" sign by', "lies (down) on", "-- perhaps -- at"]
WHAT = [
    "a table.", "the bench!!", "1,000 birds?", "the '90s diner", "a $5 bill", "a 1/2 mile", "mother&daughter, etc.",
    "the water ,", "each other...", "mr. smith's 2.5 foot fish at 7:30 p.m.", "what is it?!", "12th street",
]  # fmt: skip
CAPTIONS = [" ".join(words) for words in itertools.product(WHO, DOES, WHAT)]
HOSTILE = [
    "",
    "...",
    "a\rb",
    "a\u2028b\u2029c",
    "x\x0by\x0cz",
    "two\nlines",
    "猫 が いる",
    "🙂",
    "(brackets)",
    "!?",
    "\ufeffa",
    " ",
]


@needs_java
def test_both_agree_on_ordinary_captions_and_the_jar_loses_no_line():
    made = JavaPTB().tokenize([*CAPTIONS, *HOSTILE, *CAPTIONS[:3]])
    assert made[: len(CAPTIONS)] == PythonPTB().tokenize(CAPTIONS)
    assert made[-3:] == made[:3] and len(made) == len(CAPTIONS) + len(HOSTILE) + 3
    assert dict(zip(HOSTILE, made[len(CAPTIONS) :], strict=False))["a\u2028b\u2029c"] == "a b c"


@needs_java
def test_tokens_are_those_of_the_package():
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, PTBTokenizer

    captions = [*CAPTIONS[::7], *(c for c in HOSTILE if "\n" not in c and len(c.splitlines()) < 2)]
    theirs = PTBTokenizer().tokenize({i: [{"caption": c}] for i, c in enumerate(captions)})
    assert JavaPTB().tokenize(captions) == [theirs[i][0] for i in range(len(captions))]
    assert set(PUNCTUATIONS) == ptb.PUNCTUATION


def test_a_tokenization_by_hand():
    text = "The man's dog can't “wait” (really), it's 3.5 ft. tall..."
    assert PythonPTB().tokenize([text]) == ["the man 's dog ca n't wait -lrb- really -rrb- it 's 3.5 ft. tall"]


def test_without_java_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(ptb.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="caption scores need Java.*PythonPTB"):
        JavaPTB().load()
    PythonPTB().load()
    monkeypatch.setattr(ptb, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="need the package pycocoevalcap"):
        ptb.jar_of_pycocoevalcap()
