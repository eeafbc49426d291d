"""HuggingFaceTokenizer: the ids of transformers' own tokenizer, and control tokens that plain text never becomes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import bpe
import pytest
from tokenizers import Tokenizer, decoders, models

from unifluid.tokenizers import HuggingFaceTokenizer

SCRIPTS = [
    (0x20, 0x7F),
    (0xA0, 0x180),
    (0x370, 0x400),
    (0x5D0, 0x5EB),
    (0x900, 0x980),
    (0x4E00, 0x4F00),
    (0xAC00, 0xAD00),
]
PIECES = [
    "😀",
    "👩‍👩‍👧",
    "  ",
    "\t",
    "\r\n",
    "\n",
    "\n\n",
    "e\u0301",
    "\u2028",
    "\x00",
    "<|im_end|>",
    "<think>",
    "don't",
    "12,345",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return bpe.write(tmp_path_factory.mktemp("bpe"))


def many_texts(count: int) -> list[str]:
    draw = random.Random(0)
    texts = []
    for _ in range(count):
        low, high = draw.choice(SCRIPTS)
        words = ["".join(chr(draw.randrange(low, high)) for _ in range(draw.randint(1, 9))) for _ in range(8)]
        texts.append("".join(draw.choice([" ", *PIECES]) + word for word in words))
    return [*texts, "a red circle, 漢字 and 😀\t" * 4000]


def same_as_transformers(tokenizer: HuggingFaceTokenizer, folder: Path) -> None:
    from transformers import AutoTokenizer

    library = AutoTokenizer.from_pretrained(folder)
    library._tokenizer.no_truncation()
    library._tokenizer.no_padding()
    space = tokenizer.encode(" ")
    for text in many_texts(1000):
        theirs = library(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        theirs = [i for id in theirs for i in (space if id == tokenizer.separator else [id])]
        assert tokenizer.encode(text) == theirs


def test_ids_are_those_of_transformers(folder):
    same_as_transformers(HuggingFaceTokenizer(str(folder)), folder)


def test_ids_of_a_real_model_are_those_of_transformers():
    folder = Path(os.environ.get("UNIFLUID_SMOLLM2", "models/smollm2-135m"))
    if not (folder / "tokenizer.json").exists():
        pytest.skip(f"no real tokenizer at {folder} (unifluid weights smollm2 --out {folder})")
    same_as_transformers(HuggingFaceTokenizer(str(folder), pad="<|endoftext|>"), folder)


def test_control_ids_come_from_the_settings_beside_the_file(folder):
    tokenizer = HuggingFaceTokenizer(str(folder / "tokenizer.json"))
    model = Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = ("<|im_start|>", "<|im_end|>", "<|pad|>", "Ċ")
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.separator) == tuple(map(model.token_to_id, names))
    assert tokenizer.vocab_size == model.get_vocab_size(with_added_tokens=True)
    given = HuggingFaceTokenizer(str(folder), bos="<|spare|>", separator="<|endoftext|>")
    assert (given.bos, given.separator) == (4, 0)
    assert "\n" in given.decode(given.encode("a\nb"))  # no longer the separator


def test_what_the_settings_leave_out_is_an_unused_special_token(tmp_path):
    folder = bpe.write(tmp_path, bos_token=None, eos_token={"content": "<|im_end|>"}, pad_token=None)
    tokenizer = HuggingFaceTokenizer(str(folder))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad) == (0, 2, 1)


def test_a_checkpoint_needs_no_file(folder, tmp_path):
    moved = bpe.write(tmp_path / "a")
    tokenizer = HuggingFaceTokenizer(str(moved))
    state, arguments = tokenizer.state(), tokenizer.init_args
    assert state == (moved / "tokenizer.json").read_bytes()
    for path in moved.iterdir():
        path.unlink()
    twin = HuggingFaceTokenizer(**arguments)
    with pytest.raises(ValueError, match="text_tokenizer.file .* does not exist"):
        twin.ready  # noqa: B018
    twin.load_state(state)
    assert twin.encode("a red <|im_end|>") == tokenizer.encode("a red <|im_end|>")
    assert twin.pad == tokenizer.pad


def test_a_newline_in_a_text_is_no_separator(folder):
    tokenizer = HuggingFaceTokenizer(str(folder))
    assert tokenizer.decode(tokenizer.encode("one\ntwo")) == "one two"


def test_a_newline_is_spelled_in_bytes_where_there_are_tokens_for_them(tmp_path):
    """As Gemma's file has it."""
    names = ["<bos>", "<eos>", "<pad>", "\n", "a", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = Tokenizer(models.BPE({n: i for i, n in enumerate(names)}, [], byte_fallback=True, unk_token="<unk>"))
    model.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    model.add_special_tokens(names[:3])
    model.save(str(tmp_path / "tokenizer.json"))
    tokenizer = HuggingFaceTokenizer(str(tmp_path))
    assert (tokenizer.bos, tokenizer.eos, tokenizer.pad, tokenizer.separator) == (0, 1, 2, 3)
    assert tokenizer.encode("a\na") == [4, names.index("<0x0A>"), 4]
    assert tokenizer.decode(tokenizer.encode("a\na")) == "a\na"


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"pad_token": "<|im_end|>"}, {}, r"eos and pad are both '<\|im_end\|>' in .*: give text_tokenizer.pad, for"),
        ({}, {"bos": "<think>"}, "bos: '<think>' is not a special token"),  # plain text would become it
        ({}, {"eos": "</s>"}, "eos: '</s>' is not a special token"),
        ({}, {"separator": "\n#"}, "separator: '\\\\n#' is not one token"),
        ({}, {"separator": "<|pad|>"}, "pad and separator are both"),
    ],
)
def test_control_tokens_that_cannot_be_are_one_line(tmp_path, settings, arguments, message):
    tokenizer = HuggingFaceTokenizer(str(bpe.write(tmp_path, **settings)), **arguments)
    with pytest.raises(ValueError, match=message) as error:
        tokenizer.ready  # noqa: B018
    assert "\n" not in str(error.value)


def test_files_that_are_none_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        HuggingFaceTokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer.json"):
        HuggingFaceTokenizer(str(tmp_path))


def test_lone_surrogates_are_one_line(folder):
    with pytest.raises(ValueError, match="not valid Unicode"):
        HuggingFaceTokenizer(str(folder)).encode("a \ud800 b")
