"""Scenes -> words: noun phrases, references, captions and their parser.

Everything is lower case and regular, so that a small SentencePiece vocabulary holds every word as one piece.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from datamodules.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, Draw, Kind, Scene, Thing

PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}
NUMBERS = ("zero", "one", "two", "three", "four")
CAPTION_PROMPT = "caption en"
PLACES_PROMPT = "caption en with places"
CAPTION_LEADS = ("", "a picture of ", "this picture shows ", "there is ", "i see ")

# The attributes that may name one thing among others, shortest first.
BY_ANY = (
    ("colour",),
    ("shape",),
    ("size", "shape"),
    ("colour", "shape"),
    ("size", "colour"),
    ("size", "colour", "shape"),
)


def article(words: str) -> str:
    """`words` with its indefinite article."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def describe(kind: Kind, attributes: Sequence[str]) -> str:
    """The noun phrase of these attributes, without an article: "large red circle", "red object"."""
    words = [getattr(kind, attribute) for attribute in attributes]
    return " ".join(words if "shape" in attributes else [*words, "object"])


def reference(draw: Draw, kinds: Sequence[Kind], i: int, without: str = "") -> str | None:
    """A description that only `kinds[i]` answers to, without the attribute `without`; None if there is none."""
    options = []
    for attributes in BY_ANY:
        if without in attributes:
            continue
        words = [getattr(kinds[i], attribute) for attribute in attributes]
        if sum(all(getattr(kind, a) == w for a, w in zip(attributes, words, strict=True)) for kind in kinds) == 1:
            options.append(attributes)
    return "the " + describe(kinds[i], draw.choice(options)) if options else None


def listing(phrases: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join([*([", ".join(phrases[:-1])] if len(phrases) > 1 else []), phrases[-1]])


def described(things: Sequence[Thing]) -> str:
    """Every thing with size, colour and shape."""
    return listing([f"a {thing.size} {thing.colour} {thing.shape}" for thing in things])


def ninth(x: int, y: int, image_size: int) -> str:
    """Which ninth of the picture a position lies in: "top left", "middle"."""
    row, column = (3 * c // image_size for c in (y, x))
    words = [w for w in (("top", "", "bottom")[row], ("left", "", "right")[column]) if w]
    return " ".join(words) or "middle"


def place(thing: Thing, image_size: int) -> str:
    """Where a thing's centre lies: "at the top left", "in the middle"."""
    where = ninth(thing.x, thing.y, image_size)
    return f"in the {where}" if where == "middle" else f"at the {where}"


def placed_things(scene: Scene) -> str:
    """Every thing with size, colour, shape and place, from left to right."""
    phrases = [f"a {t.size} {t.colour} {t.shape} {place(t, scene.image_size)}" for t in scene.things]
    return listing(phrases)


def backdrop(background: str, stated: bool) -> str:
    """The end of a sentence that states the background, or leaves it open."""
    return f" on {article(background)} background" if stated else ""


def caption(draw: Draw, scene: Scene, places: bool = False) -> str:
    """One of several wordings; each names every thing in reading order, with its place if so asked."""
    wording, listed = draw.below(4), placed_things(scene) if places else described(scene.things)
    if wording == 0:
        return f"{article(scene.background)} background with {listed}"
    return draw.choice(CAPTION_LEADS) + listed + backdrop(scene.background, wording == 1)


def _any_of(words: Sequence[str]) -> str:
    return f"({'|'.join(words)})"


_THING = f"a {_any_of(tuple(SIZES))} {_any_of(tuple(COLOURS))} {_any_of(SHAPES)}"
_BACKGROUND = f"an? {_any_of(tuple(BACKGROUNDS))} background"
_LIST = f"{_THING}(?:, {_THING})*(?: and {_THING})?"
_CAPTION = re.compile(f"(?:{_BACKGROUND} with |{'|'.join(CAPTION_LEADS[1:])})?{_LIST}(?: on {_BACKGROUND})?")


def parse_caption(text: str) -> Counter[Kind] | None:
    """The things a caption names, counted; None where the text is not a caption of this language."""
    if _CAPTION.fullmatch(text.strip()) is None:
        return None
    return Counter(Kind(*words) for words in re.findall(_THING, text))
