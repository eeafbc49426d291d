"""Questions about scenes, with answers of a word or two that no question gives away.

Each kind builds its scene around the answer, so that answers are balanced and guessing without looking is bad:
1/8 for colours, 1/5 for shapes and counts, 1/2 for yes and no. Positions alone are as scenes have them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from datamodules.shapes.language import NUMBERS, PLURALS, article, describe, ninth, reference
from datamodules.shapes.prompts import RELATIONS
from datamodules.shapes.scenes import OPPOSITE, Draw, Kind, Scene, make_scene, side


class Question(NamedTuple):
    text: str
    answer: str
    scene: Scene
    pairs: list[tuple[str, str]]  # the (shape, colour) pairs that are asked for


def yes_no(truth: bool) -> str:
    return "yes" if truth else "no"


def one_reference(draw: Draw, without: str = "") -> tuple[list[Kind], str]:
    """Kinds whose first can be named without that attribute, and the name."""
    while True:
        kinds = draw.kinds()
        if thing := reference(draw, kinds, 0, without):
            return kinds, thing


def attribute(name: str) -> Callable[[Draw], Question]:
    """Questions for the colour, shape or size of one thing."""

    def ask(draw: Draw) -> Question:
        kinds, thing = one_reference(draw, without=name)
        text = draw.choice((f"what {name} is {thing}?", f"what is the {name} of {thing}?"))
        return Question(text, getattr(kinds[0], name), draw.scene(kinds), [kinds[0].pair])

    return ask


def position(draw: Draw) -> Question:
    """Which ninth of the picture a thing lies in: one step of what a relation takes."""
    kinds, thing = one_reference(draw)
    centres = draw.centres(kinds)
    scene = make_scene(draw.background(), kinds, centres, draw.image_size)
    answer = ninth(*centres[0], draw.image_size)
    return Question(f"where is {thing}?", answer, scene, [kinds[0].pair])


def count(draw: Draw) -> Question:
    """How many of one shape, of one colour, or in all; every number is as likely as another."""
    of = draw.choice(("shape", "colour", "all"))
    wanted = draw.kind()
    if of == "all":
        kinds, noun = draw.kinds(), "objects"
        matching = len(kinds)
    else:
        most = draw.world.things
        matching = draw.below(most + 1)
        value = getattr(wanted, of)
        noun = PLURALS[value] if of == "shape" else f"{value} objects"
        least = max(matching, 1)
        kinds = [draw.kind(**{of: value}) for _ in range(matching)]
        for _ in range(least + draw.below(most + 1 - least) - matching):
            other = draw.kind()
            while getattr(other, of) == value:
                other = draw.kind()
            kinds.append(other)
    text = draw.choice((f"how many {noun} are there?", f"how many {noun} do you see?"))
    return Question(text, NUMBERS[matching], draw.scene(kinds), [kind.pair for kind in kinds])


def existence(draw: Draw) -> Question:
    """Is there such a thing? Where not, one attribute of a thing that is there was changed."""
    kinds, truth = draw.kinds(), draw.chance(0.5)
    attributes = draw.choice((("colour", "shape"), ("size", "shape"), ("size", "colour", "shape")))
    asked = kinds[0]
    if not truth:
        here = {describe(kind, attributes) for kind in kinds}
        while describe(asked, attributes) in here:
            kept = draw.random.sample(("size", "colour", "shape"), 2)
            asked = draw.kind(**{name: getattr(kinds[0], name) for name in kept})
    thing = article(describe(asked, attributes))
    text = draw.choice((f"is there {thing}?", f"do you see {thing}?"))
    pairs = [asked.pair] if "colour" in attributes else [kind.pair for kind in kinds]
    return Question(text, yes_no(truth), draw.scene(kinds), pairs)


def two_references(draw: Draw, without: str = "", fits: Callable[[Kind, Kind], bool] = lambda a, b: True):
    """Kinds whose first two can each be named, and those names."""
    while True:
        kinds = draw.kinds()
        if len(kinds) < 2 or not fits(kinds[0], kinds[1]):
            continue
        a, b = (reference(draw, kinds, i, without) for i in (0, 1))
        if a and b:
            return kinds, a, b


def relation(draw: Draw) -> Question:
    """Where two things lie, asked only along the axis that clearly separates them."""
    kinds, a, b = two_references(draw)
    centres = draw.centres(kinds, lambda c: side(c[0], c[1]) is not None)
    truth = side(centres[0], centres[1])
    scene = make_scene(draw.background(), kinds, centres, draw.image_size)
    pairs = [kind.pair for kind in kinds[:2]]
    if draw.chance(0.5):
        return Question(f"where is {a} relative to {b}?", truth, scene, pairs)
    asked = draw.choice((truth, OPPOSITE[truth]))
    return Question(f"is {a} {RELATIONS[asked]} {b}?", yes_no(asked == truth), scene, pairs)


def comparison(draw: Draw) -> Question:
    """Sizes, sameness of size or colour, or numbers of two things."""
    return draw.choice((larger, same, more))(draw)


def larger(draw: Draw) -> Question:
    kinds, a, b = two_references(draw, without="size", fits=lambda a, b: a.size != b.size)
    word = draw.choice(("larger", "smaller"))
    truth = (kinds[0].size == "large") == (word == "larger")
    return Question(f"is {a} {word} than {b}?", yes_no(truth), draw.scene(kinds), [kind.pair for kind in kinds[:2]])


def same(draw: Draw) -> Question:
    of, truth = draw.choice(("size", "colour")), draw.chance(0.5)
    kinds, a, b = two_references(draw, without=of, fits=lambda a, b: (getattr(a, of) == getattr(b, of)) == truth)
    pairs = [kind.pair for kind in kinds[:2]]
    return Question(f"are {a} and {b} the same {of}?", yes_no(truth), draw.scene(kinds), pairs)


def more(draw: Draw) -> Question:
    of = draw.choice(("shape", "colour"))
    while True:
        kinds = draw.kinds()
        counts = Counter(getattr(kind, of) for kind in kinds)
        a, b = draw.random.sample([getattr(draw.kind(), of), *counts, *counts], 2)
        if counts[a] != counts[b]:
            break
    first, second = (PLURALS[value] if of == "shape" else f"{value} objects" for value in (a, b))
    text = f"are there more {first} than {second}?"
    return Question(text, yes_no(counts[a] > counts[b]), draw.scene(kinds), [kind.pair for kind in kinds])


ASKED: dict[str, Callable[[Draw], Question]] = {  # in evaluation
    "colour": attribute("colour"),
    "shape": attribute("shape"),
    "count": count,
    "existence": existence,
    "relation": relation,
    "comparison": comparison,
}
QUESTIONS = ASKED | {"size": attribute("size"), "position": position}  # the last two only teach
TAKE_TWO = ("relation", "comparison")  # things
