"""Text tokenizer: the tokenizer.json of any language model (SmolLM2, Qwen3, Llama 3, Gemma, …), by `tokenizers`.

Control tokens are special tokens of the file, so plain text never becomes one. The separator may be an ordinary token:
where it is the newline of byte-level BPE, which has no other spelling, a newline in a text becomes a space.
"""

from __future__ import annotations

import functools
import json
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unifluid.interfaces import TextTokenizer
from unifluid.weights import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE, SETTINGS = "tokenizer.json", "tokenizer_config.json"


class Controls(NamedTuple):
    bos: int
    eos: int
    pad: int
    separator: int


class HuggingFaceTokenizer(TextTokenizer):
    """Text <-> ids, the same ids as transformers' own tokenizer where special tokens in a text are plain text.

    A text comes back as the file normalises it (Qwen3: NFC), without bytes that its vocabulary lacks (SmolLM2 has no
    token for 21 of the 256 bytes), and with a newline as said above. A checkpoint holds the file and the names of the
    control tokens: it needs neither the file nor tokenizer_config.json again.

    Args:
        file: a tokenizer.json or the folder it is in.
        bos: the special token that begins a row. For this and the next two, None: the one that tokenizer_config.json
            beside the file names, or else the first special token that is not yet used.
        eos: the special token that ends a text.
        pad: the special token of padding, another than eos: a model that reads eos as padding would never end a text.
        separator: the one token, special or not, between a question and its answer.
    """

    def __init__(
        self, file: str, bos: str | None = None, eos: str | None = None, pad: str | None = None, separator: str = "\n"
    ):
        self.file = file
        names = {"bos": bos, "eos": eos, "pad": pad}
        if None in names.values():
            names = _complete(names, separator, self._path)
            self.init_args = self.init_args | names
        self._names = {**names, "separator": separator}
        self._state: bytes | None = None

    @property
    def _path(self) -> Path:
        path = Path(self.file)
        return path / FILE if path.is_dir() else path

    # -- the model and its ids ------------------------------------------------------------------------------------

    @functools.cached_property
    def _model(self) -> Tokenizer:
        if self._state is not None:
            return _parse(self._state, "the stored tokenizer")
        if not self._path.is_file():
            raise ValueError(f"text_tokenizer.file {self.file} does not exist")
        self._state = self._path.read_bytes()
        return _parse(self._state, self._path)

    def __getstate__(self) -> dict[str, Any]:
        """A pickled or copied `Tokenizer` would forget that special tokens in a text are plain text."""
        return {name: value for name, value in self.__dict__.items() if name != "_model"}

    @functools.cached_property
    def _controls(self) -> Controls:
        return _control_ids(self._model, self._names, self.file)

    bos = property(attrgetter("_controls.bos"))
    eos = property(attrgetter("_controls.eos"))
    pad = property(attrgetter("_controls.pad"))
    separator = property(attrgetter("_controls.separator"))

    @functools.cached_property
    def vocab_size(self) -> int:
        return max(self._model.get_vocab(with_added_tokens=True).values()) + 1

    # -- text -----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate
            raise ValueError(f"not valid Unicode: {text!r}") from None
        ids = self._model.encode(text, add_special_tokens=False).ids
        if not set(self._controls).isdisjoint(ids):
            ids = [i for id in ids for i in (self._instead if id in self._controls else [id])]
        return ids

    @functools.cached_property
    def _instead(self) -> list[int]:
        """What the separator is in a text: its bytes, where they have tokens of their own (Gemma), or else a space."""
        spelled = [self._model.token_to_id(f"<0x{byte:02X}>") for byte in self._names["separator"].encode()]
        if None not in spelled:
            return spelled
        return [id for id in self._model.encode(" ", add_special_tokens=False).ids if id not in self._controls]

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; control ids, other special tokens and ids without a token are left out."""
        size = self.vocab_size
        return self._model.decode([i for i in ids if i < size and i not in self._controls], skip_special_tokens=True)

    # -- state ----------------------------------------------------------------------------------------------------

    def state(self) -> bytes:
        """The bytes of the tokenizer.json."""
        assert self._model is not None  # read
        return self._state

    def load_state(self, state: bytes) -> None:
        _control_ids(_parse(state, "the stored tokenizer"), self._names, "the stored tokenizer")
        self._state = state
        for name in ("_model", "_controls", "_instead", "vocab_size"):
            self.__dict__.pop(name, None)

    @property
    def ready(self) -> bool:
        return self._controls is not None  # reads the file: a wrong one is an error here, not in a loader's worker


def _parse(state: bytes, source: str | Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        model = Tokenizer.from_buffer(state)
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{source} is not a {FILE}") from error
    model.encode_special_tokens = True  # neither the file nor a pickle keeps it
    model.no_truncation()
    model.no_padding()
    return model


def _complete(names: dict[str, str | None], separator: str, path: Path) -> dict[str, str]:
    """`names` with those of tokenizer_config.json, and then with special tokens that none of them uses."""
    if not path.is_file():
        raise ValueError(f"text_tokenizer.file {path} does not exist")
    settings = path.with_name(SETTINGS)
    settings = read_json(settings) if settings.is_file() else {}
    for part in names:
        token = settings.get(f"{part}_token")
        token = token.get("content") if isinstance(token, dict) else token
        names = {**names, part: names[part] or token}
    unused = iter(_unused(path.read_bytes(), path, {*names.values(), separator}))
    for part in [part for part in names if names[part] is None]:
        names[part] = next(unused, None)
        if names[part] is None:
            raise ValueError(f"text_tokenizer: {path} has no unused special token for {part}: it cannot be used here")
    return names


def _unused(state: bytes, source: str | Path, used: set[str | None]) -> list[str]:
    """Special tokens of a tokenizer.json that are not in `used`, in the order of their ids."""
    try:
        tokens = json.loads(state)["added_tokens"]
        return [token["content"] for token in tokens if token["special"] and token["content"] not in used]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{source} is not a {FILE}") from error


def _control_ids(model: Tokenizer, names: dict[str, str], source: str) -> Controls:
    """Raises ValueError where a name is no token, or two are the same."""
    special = {token.content: id for id, token in model.get_added_tokens_decoder().items() if token.special}
    ids = {part: special.get(name) for part, name in names.items()}
    if ids["separator"] is None:
        ids["separator"] = _one_id(model, names["separator"])
    for part, id in ids.items():
        if id is None:
            kind = "one token" if part == "separator" else "a special token"
            raise ValueError(f"text_tokenizer.{part}: {names[part]!r} is not {kind} of {source}")
    first: dict[int, str] = {}
    for part, id in ids.items():
        if id in first:
            free = [name for name, other in special.items() if other not in ids.values()]
            hint = f"text_tokenizer.{part}, for instance {free[0]!r}" if free else "another file, it has no other left"
            raise ValueError(
                f"text_tokenizer: {first[id]} and {part} are both {names[part]!r} in {source}: give {hint}"
            )
        first[id] = part
    return Controls(**ids)


def _one_id(model: Tokenizer, token: str) -> int | None:
    """Of a token by its name (Gemma's newline), or of a text that is one token (the newline of byte-level BPE)."""
    id, ids = model.token_to_id(token), model.encode(token, add_special_tokens=False).ids
    return ids[0] if id is None and len(ids) == 1 else id
