"""What every text tokenizer found in `unifluid.tokenizers` must hold."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import random

import bpe
import pytest

import unifluid.tokenizers
from unifluid.interfaces import TextTokenizer

ARGUMENTS = {
    "SentencePiece": [{"vocab_size": 400}, {"vocab_size": 400, "model_type": "unigram"}],
    "HuggingFaceTokenizer": [{"file": "…"}],  # written by the fixture
}
NEWLINE = {"HuggingFaceTokenizer": " "}  # what a newline in a text becomes where it is the separator
TEXTS = [
    f"a {a} picture of {n} {b} cats, dogs and a tree" for a in ("red", "big") for b in ("blue", "old") for n in "234"
]
AWKWARD = [
    "",
    " ",
    "two  spaces ",
    " leading",
    "tab\tand\r\nlines\n",
    "a\u2028b\u2029c\x85d",
    "nul \x00 inside",
    "😀 👩‍👩‍👧 é e\u0301 漢字 ﬁ",
    "<s></s> <pad> <bos><eos> <unk> <separator> <0x0A>",
]


def found() -> list[type[TextTokenizer]]:
    names = [m.name for m in pkgutil.iter_modules(unifluid.tokenizers.__path__, "unifluid.tokenizers.")]
    classes = [c for n in names for c in vars(importlib.import_module(n)).values() if inspect.isclass(c)]
    return list(dict.fromkeys(c for c in classes if issubclass(c, TextTokenizer) and not inspect.isabstract(c)))


CASES = [(c, arguments) for c in found() for arguments in ARGUMENTS.get(c.__name__, [])]


def test_every_text_tokenizer_is_covered():
    assert {c.__name__ for c in found()} == set(ARGUMENTS), "give arguments of the new tokenizer in ARGUMENTS"


trained_here = pytest.mark.parametrize("untrained", [c for c in CASES if "vocab_size" in c[1]], ids=str, indirect=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    return str(bpe.write(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture(params=CASES, ids=str)
def untrained(request, file) -> TextTokenizer:
    cls, arguments = request.param
    return cls(**{**arguments, "file": file} if "file" in arguments else arguments)


@pytest.fixture
def tokenizer(untrained) -> TextTokenizer:
    untrained.train(TEXTS)
    return untrained


def controls(tokenizer: TextTokenizer) -> set[int]:
    return {tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.separator}


def test_control_ids_are_four_different_ids_of_the_vocabulary(tokenizer):
    assert len(controls(tokenizer)) == 4
    assert controls(tokenizer) <= set(range(tokenizer.vocab_size))


def documented(tokenizer: TextTokenizer, text: str) -> str:
    """`text` as it comes back: unchanged, but for the exceptions that the class documents."""
    return text.replace("\n", NEWLINE.get(type(tokenizer).__name__, "\n"))


@pytest.mark.parametrize("text", TEXTS[:2] + AWKWARD)
def test_any_text_comes_back_without_control_ids(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == documented(tokenizer, text)
    assert controls(tokenizer).isdisjoint(ids)
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


def test_random_text_comes_back(tokenizer):
    draw = random.Random(0)
    alphabet = [chr(c) for c in (*range(0x180), *range(0x2000, 0x2060), 0x1F600, 0xFEFF, 0xFFFD)]
    for _ in range(200):
        text = "".join(draw.choices(alphabet, k=12))
        assert tokenizer.decode(tokenizer.encode(text)) == documented(tokenizer, text)


def test_decode_leaves_control_ids_out(tokenizer):
    ids = tokenizer.encode("a red cat")
    mixed = [tokenizer.bos, *ids[:2], tokenizer.separator, *ids[2:], tokenizer.eos, tokenizer.pad]
    assert tokenizer.decode(mixed) == "a red cat"


def test_any_id_of_the_vocabulary_can_be_decoded(tokenizer):
    """A model predicts what it likes, ids without a piece and broken byte sequences included."""
    assert isinstance(tokenizer.decode(list(range(tokenizer.vocab_size))), str)


@trained_here
def test_training_is_deterministic(untrained):
    untrained.train(TEXTS)
    twin = type(untrained)(**untrained.init_args)
    twin.train(list(TEXTS))
    assert twin.state() == untrained.state()


@trained_here
def test_not_ready_before_training_and_a_second_training_changes_nothing(untrained):
    assert not untrained.ready
    untrained.train(TEXTS)
    assert untrained.ready
    before = untrained.state()
    untrained.train(["something else entirely"] * 10)
    assert untrained.state() == before


@pytest.mark.parametrize("way", ["state", "pickle", "copy"])
def test_copies_encode_alike(tokenizer, way):
    if way == "state":
        twin = type(tokenizer)(**tokenizer.init_args)
        twin.load_state(tokenizer.state())
    else:
        twin = pickle.loads(pickle.dumps(tokenizer)) if way == "pickle" else copy.deepcopy(tokenizer)
    assert twin.ready
    assert twin.vocab_size == tokenizer.vocab_size
    assert controls(twin) == controls(tokenizer)
    assert twin.encode(TEXTS[0] + " 😀") == tokenizer.encode(TEXTS[0] + " 😀")
    assert twin.state() == tokenizer.state()


@trained_here
def test_a_state_too_large_for_the_vocabulary_is_refused(untrained):
    untrained.train(TEXTS)
    small = type(untrained)(**{**untrained.init_args, "vocab_size": 20})
    with pytest.raises(ValueError, match="20"):
        small.load_state(untrained.state())
    assert not small.ready


def test_a_broken_state_is_refused_and_changes_nothing(untrained):
    before = untrained.ready
    for state in (b"", b"not a model"):
        with pytest.raises(ValueError):
            untrained.load_state(state)
    assert untrained.ready == before
