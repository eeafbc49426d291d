"""--prompts: what a file of prompts holds, however it was written."""

from __future__ import annotations

import codecs
import json
from argparse import Namespace

import pytest

from unifluid.cli.items import collect

TEXTS = ["a cat", "a\u2028dög\x85", "the last"]


def prompts(path, data: bytes) -> list[str]:
    path.write_bytes(data)
    return [item.text for item in collect("generate", Namespace(prompts=str(path), prompt=[]))]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_separators_within_a_line_change_nothing(tmp_path, mark, end):
    rows = [json.dumps({"prompt": text}, ensure_ascii=False) for text in TEXTS]
    assert prompts(tmp_path / "a.jsonl", mark + end.join(rows).encode()) == TEXTS
    plain = ["a cat", "a\u2028dög", "the last"]
    assert prompts(tmp_path / "a.txt", mark + end.join(plain).encode()) == plain


def test_other_encodings_are_named_with_their_line(tmp_path):
    with pytest.raises(ValueError, match=r"a\.txt:2 is not UTF-8 text"):
        prompts(tmp_path / "a.txt", b"cat\ncaf\xe9")
