"""The tokenizer that caption scores are defined with: Stanford's PTB tokenizer, in Java or as rules in Python.

Both give a caption as the COCO evaluation compares it: lower-case tokens joined by spaces, punctuation left out.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from unifluid.interfaces import Recorded

# Stanford's classes would take each of these for the end of a caption, and shift all that follow.
LINE_BREAKS = re.compile("[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
PUNCTUATION = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}


class CaptionTokenizer(Recorded, ABC):
    """Captions -> tokens, for scores that compare words."""

    name: str  # in the record: which tokenizer ran

    def load(self) -> None:
        """Raises ValueError where it cannot run here. Called before anything is written."""

    @abstractmethod
    def tokenize(self, captions: Sequence[str]) -> list[str]:
        """Tokens of each caption, joined by spaces."""


class JavaPTB(CaptionTokenizer):
    """Stanford's own, from the jar inside pycocoevalcap; needs Java (8 or newer) on the path."""

    name = "java"

    def load(self) -> None:
        if shutil.which("java") is None:
            raise ValueError(
                "caption scores need Java for Stanford's tokenizer: install it (a JRE, 8 or newer), or choose the "
                "tokenizer unifluid.evaluation.ptb.PythonPTB, which is named in the record"
            )
        jar_of_pycocoevalcap()

    def tokenize(self, captions: Sequence[str]) -> list[str]:
        if not captions:
            return []
        text = "\n".join(LINE_BREAKS.sub(" ", caption) for caption in captions) + "\n"
        classpath, entry = str(jar_of_pycocoevalcap()), "edu.stanford.nlp.process.PTBTokenizer"
        command = ["java", "-cp", classpath, entry, "-preserveLines", "-lowerCase"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"Stanford's tokenizer failed: {reason}")
        lines = done.stdout.decode().split("\n")[:-1]
        if len(lines) != len(captions):
            raise ValueError(f"Stanford's tokenizer made {len(lines)} lines of {len(captions)} captions")
        return [_without_punctuation(line.split(" ")) for line in lines]


class PythonPTB(CaptionTokenizer):
    """The same rules without Java, as far as captions need them: equal on ordinary captions, not on all there are."""

    name = "python"

    def tokenize(self, captions: Sequence[str]) -> list[str]:
        return [_without_punctuation(ptb_tokens(caption)) for caption in captions]


def jar_of_pycocoevalcap() -> Path:
    """Raises ValueError where the package or its jar is missing."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("caption scores need the package pycocoevalcap: pip install 'unifluid[evaluation]'")
    found = sorted((Path(spec.submodule_search_locations[0]) / "tokenizer").glob("stanford-corenlp-*.jar"))
    if not found:
        raise ValueError("the package pycocoevalcap holds no stanford-corenlp jar: install it again")
    return found[-1]


def _without_punctuation(tokens: Sequence[str]) -> str:
    return " ".join(token for token in tokens if token and token not in PUNCTUATION)


# -- Stanford's rules in Python --------------------------------------------------------------------------------------

RENAMED = {
    "’": "'", "‘": "`", "“": "``", "”": "''", "–": "--", "—": "--", "…": "...", "€": "$", "£": "#", "½": "1/2",
    "¼": "1/4", "¾": "3/4", "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip
ABBREVIATIONS = (
    "mr|mrs|ms|dr|prof|sr|jr|st|rd|ave|blvd|mt|ft|lt|col|gen|sgt|capt|rev|hon|gov|sen|rep|inc|ltd|co|corp|etc|vs|no|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun|approx|dept|est|fig|vol"
)
SPLIT_WORDS = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me", "lemme": "lem me",
}  # fmt: skip
TOKEN = re.compile(
    r"https?://[^\s]+|www\.[^\s]+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+"  # addresses
    rf"|(?:{ABBREVIATIONS})\.(?=\s+\S)|etc\.|(?:[a-z]\.){{2,}}|(?<![\w'])[a-z]\.(?!\w)"  # abbreviations keep their stop
    r"|[a-z]+(?=n't\b)|n't\b"  # do n't
    r"|'(?:s|m|re|ve|ll|d)\b|'\d0s\b"  # it 's, '90s
    r"|(?<!\S)[-+]\d+\b|[-+]?\d+(?:[.,:]\d+)+|\d+/\d+"  # 1,000 · 3.5 · 7:30 · 1/2
    r"|\w(?:&\w)+\b|\w+(?:[-/_.]\w+)*(?:'(?!(?:s|m|re|ve|ll|d|t)\b)\w+)*"  # words, with hyphens inside
    r"|-[lr][rcs]b-|\.{2,}|[?!]+|--+|``|''|[^\w\s]",
    re.IGNORECASE,
)


def ptb_tokens(caption: str) -> list[str]:
    """Lower-case tokens of one caption, punctuation included."""
    text = LINE_BREAKS.sub(" ", caption)
    text = re.sub(r'(^|[\s(\[{<])"', r"\1 `` ", text).replace('"', " '' ")
    for old, new in RENAMED.items():
        text = text.replace(old, f" {new} " if new[0] in "-`." or new == "''" else new)
    tokens = TOKEN.findall(text.lower())
    return [part for token in tokens for part in SPLIT_WORDS.get(token, token).split()]
