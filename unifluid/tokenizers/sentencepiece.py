"""Text tokenizer: any SentencePiece model, loaded from a file (Gemma's included) or trained on the data's own text.

Control ids are those of the model. One it lacks gets an id after the last piece, so `vocab_size` may exceed the number
of pieces; the separator is the piece "\\n" where the model has it (as PaliGemma uses Gemma's).
"""

from __future__ import annotations

import functools
import io
import re
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from unifluid.interfaces import TextTokenizer

SEPARATOR = "<separator>"  # the control piece of models trained here
MIN_COVERAGE = 0.98  # the trainer takes no less
MAX_TEXT_BYTES = 1 << 20  # the trainer silently skips texts longer than this


class Controls(NamedTuple):
    bos: int
    eos: int
    pad: int
    separator: int


class SentencePiece(TextTokenizer):
    """Text <-> ids of a SentencePiece model. Any text comes back unchanged, except "▁" (U+2581), which means a space.

    Args:
        vocab_size: rows of the embedding, at least the number of pieces; None: as many as `model_file` needs.
        model_file: a SentencePiece model to load, on first use; None: trained from the data by `train`.
        model_type: algorithm of the training. On small corpora "bpe" makes every common word one token and keeps
            punctuation apart; "unigram" finds only pieces that several words share, "word" cannot split at all.
        character_coverage: share of the text's characters that become pieces; the rest are spelled in bytes.
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        model_file: str | None = None,
        model_type: Literal["bpe", "unigram", "word", "char"] = "bpe",
        character_coverage: float = 1.0,
    ):
        if vocab_size is None and model_file is None:
            raise ValueError("a text tokenizer needs vocab_size, to be trained, or model_file")
        if vocab_size is not None and vocab_size < 1:
            raise ValueError(f"vocab_size must be at least 1, got {vocab_size}")
        if not MIN_COVERAGE <= character_coverage <= 1:
            raise ValueError(f"character_coverage must be {MIN_COVERAGE} to 1, got {character_coverage}")
        self._vocab_size, self.model_file = vocab_size, model_file
        self.model_type, self.character_coverage = model_type, character_coverage
        self._state: bytes | None = None

    # -- the model and its ids ------------------------------------------------------------------------------------

    @functools.cached_property
    def _model(self) -> SentencePieceProcessor:
        if self._state is None and self.model_file is None:
            raise ValueError("the text tokenizer has no vocabulary yet: call train(texts), or give model_file")
        if self._state is not None:
            return self._parse(self._state, "the stored tokenizer")
        if not Path(self.model_file).is_file():
            raise ValueError(f"model_file {self.model_file} does not exist")
        return self._parse(Path(self.model_file).read_bytes(), self.model_file)

    def _parse(self, state: bytes, source: str) -> SentencePieceProcessor:
        """A processor for a model's bytes, once its size is known to fit."""
        try:
            model = SentencePieceProcessor(model_proto=state or b"\xff")  # no bytes at all would load as no model
        except RuntimeError:
            raise ValueError(f"{source} is not a SentencePiece model") from None
        needed = _ids_needed(model)
        if self._vocab_size is not None and needed > self._vocab_size:
            raise ValueError(f"{source} needs {needed} ids, more than vocab_size {self._vocab_size}")
        return model

    @functools.cached_property
    def _controls(self) -> Controls:
        return _control_ids(self._model)

    bos = property(attrgetter("_controls.bos"))
    eos = property(attrgetter("_controls.eos"))
    pad = property(attrgetter("_controls.pad"))
    separator = property(attrgetter("_controls.separator"))

    @property
    def vocab_size(self) -> int:
        if self._vocab_size is not None:
            return self._vocab_size
        return _ids_needed(self._model)

    # -- text -----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        try:
            ids = self._model.encode(text)
        except RuntimeError:
            raise ValueError(f"not valid Unicode: {text!r}") from None
        if not set(self._controls).isdisjoint(ids):  # e.g. a newline in the text, where "\n" is the separator
            ids = [i for id in ids for i in (self._spell(id) if id in self._controls else [id])]
        return ids

    def _spell(self, control: int) -> list[int]:
        """A control piece as plain text: its bytes, or the unknown id in models without byte pieces."""
        names = [f"<0x{byte:02X}>" for byte in self._model.id_to_piece(control).encode()]
        return [self._model.piece_to_id(name) for name in names]

    def decode(self, ids: list[int]) -> str:
        pieces = self._model.piece_size()  # a model may also predict ids without a piece
        return self._model.decode([i for i in ids if i < pieces and i not in self._controls])

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        return self._model.serialized_model_proto()

    def load_state(self, state: bytes) -> None:
        self._parse(state, "the stored tokenizer")
        self._set(state)

    def _set(self, state: bytes) -> None:
        self._state = state
        self.__dict__.pop("_model", None)
        self.__dict__.pop("_controls", None)

    @property
    def ready(self) -> bool:
        if self._state is None and self.model_file is None:
            return False
        return self._model is not None  # reads model_file: a wrong one is an error here, not in a loader's worker

    def train(self, texts: list[str]) -> None:
        """Learn the vocabulary, the same for the same texts; does nothing where there is one already."""
        if self.ready:
            return
        if not any(text.strip() for text in texts):
            raise ValueError("a text tokenizer cannot be trained without text")
        model = io.BytesIO()
        try:
            SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                model_type=self.model_type,
                vocab_size=self._vocab_size,
                hard_vocab_limit=False,
                character_coverage=self.character_coverage,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                pad_id=0,
                eos_id=1,
                bos_id=2,
                unk_id=3,
                control_symbols=[SEPARATOR],
                max_sentence_length=MAX_TEXT_BYTES,
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(self._why(str(error))) from None
        self.load_state(model.getvalue())

    def _why(self, message: str) -> str:
        """The trainer's error in the words of our settings."""
        if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
            return (
                f"vocab_size {self._vocab_size} is too small: the text's characters and bytes alone need {found[1]}: "
                f"--model.init_args.text_tokenizer.init_args.vocab_size {found[1]} or more, or a character_coverage "
                f"below {self.character_coverage:g} there, which spells rare characters in bytes"
            )
        return f"vocab_size {self._vocab_size} cannot be trained on this text: {message}"


def _control_ids(model: SentencePieceProcessor) -> Controls:
    """Those of the model; the ones it lacks follow its last piece."""
    found = [model.bos_id(), model.eos_id(), model.pad_id(), _separator(model)]
    own = iter(range(model.piece_size(), model.piece_size() + 4))
    return Controls(*(id if id >= 0 else next(own) for id in found))


def _separator(model: SentencePieceProcessor) -> int:
    """Our control piece, or the piece "\\n"; -1 where the model has neither."""
    ours, newline = model.piece_to_id(SEPARATOR), model.piece_to_id("\n")
    if model.is_control(ours):
        return ours
    return -1 if model.is_unknown(newline) else newline


def _ids_needed(model: SentencePieceProcessor) -> int:
    return max(*_control_ids(model), model.piece_size() - 1) + 1
