"""Text-to-image prompts in GenEval's six categories, with what their pictures must show.

`include` and `exclude` are GenEval's own clauses (the fields of its evaluation_metadata.jsonl), so one scoring serves
photographs and these scenes. A picture shows exactly what its prompt names; what is left open is drawn at random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from datamodules.shapes.language import NUMBERS, PLURALS, article, backdrop, describe, described, placed_things
from datamodules.shapes.scenes import Draw, Kind, Scene, make_scene, side

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
TAKE_TWO = ("two_object", "counting", "position", "color_attr")  # things
RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
LEADS = ("a photo of ", "a picture of ", "an image of ", "a drawing of ", "draw ", "")
SIZED, BACKED = 0.3, 0.3  # shares of prompts that state sizes, and the background
LONG_BACKED = 0.75  # share of long prompts that state the background

Clause = dict[str, Any]


class Prompt(NamedTuple):
    """A sentence, a scene it describes, and GenEval's clauses."""

    text: str
    scene: Scene
    include: list[Clause]
    exclude: list[Clause]


class Content(NamedTuple):
    """What a category decides: the things, the words for them, the clauses, and the side the second is on."""

    kinds: list[Kind]
    words: str
    include: list[Clause]
    exclude: list[Clause]
    side: str | None = None


def clause(kind: Kind, **more: Any) -> Clause:
    return {"class": kind.shape, "count": 1, **more}


def attributes(sized: bool, *names: str) -> tuple[str, ...]:
    return ("size", *names) if sized else names


def single_object(draw: Draw, sized: bool) -> Content:
    kind = draw.kind()
    return Content([kind], article(describe(kind, attributes(sized, "shape"))), [clause(kind)], [])


def two_object(draw: Draw, sized: bool) -> Content:
    kinds = [draw.kind(shape=shape) for shape in draw.shapes(2)]
    words = " and ".join(article(describe(kind, attributes(sized, "shape"))) for kind in kinds)
    return Content(kinds, words, [clause(kind) for kind in kinds], [])


def counting(draw: Draw, sized: bool) -> Content:
    count, first = draw.several(), draw.kind()
    size = first.size if sized else None
    kinds = [draw.kind(size=size, shape=first.shape) for _ in range(count)]
    words = " ".join([NUMBERS[count], *([first.size] if sized else []), PLURALS[first.shape]])
    include, exclude = ([{"class": first.shape, "count": n}] for n in (count, count + 1))
    return Content(kinds, words, include, exclude)


def colors(draw: Draw, sized: bool) -> Content:
    kind = draw.kind()
    words = article(describe(kind, attributes(sized, "colour", "shape")))
    return Content([kind], words, [clause(kind, color=kind.colour)], [])


def position(draw: Draw, sized: bool) -> Content:
    """ "a circle left of a square": the square comes first in the clauses, as GenEval has it."""
    where, moved = draw.choice(tuple(RELATIONS.items()))
    anchor, other = (draw.kind(shape=shape) for shape in draw.shapes(2))
    first, second = (article(describe(kind, attributes(sized, "shape"))) for kind in (other, anchor))
    include = [clause(anchor), clause(other, position=[moved, 0])]
    return Content([anchor, other], f"{first} {moved} {second}", include, [], side=where)


def color_attr(draw: Draw, sized: bool) -> Content:
    """Two things of different shapes and, as in GenEval, different colours."""
    shapes = draw.shapes(2)
    kinds = [draw.kind(shape=shape) for shape in shapes]
    while kinds[0].colour == kinds[1].colour:
        kinds = [draw.kind(shape=shape) for shape in shapes]
    words = " and ".join(article(describe(kind, attributes(sized, "colour", "shape"))) for kind in kinds)
    return Content(kinds, words, [clause(kind, color=kind.colour) for kind in kinds], [])


CATEGORIES: dict[str, Callable[[Draw, bool], Content]] = {
    function.__name__: function for function in (single_object, two_object, counting, colors, position, color_attr)
}


def make_prompt(draw: Draw, tag: str) -> Prompt:
    """A prompt of one GenEval category and a picture of it."""
    content = CATEGORIES[tag](draw, draw.chance(SIZED))
    fits = (lambda c: side(c[1], c[0]) == content.side) if content.side else (lambda c: True)
    background, backed = draw.background(), draw.chance(BACKED)
    scene = make_scene(background, content.kinds, draw.centres(content.kinds, fits), draw.image_size)
    text = draw.choice(LEADS) + content.words + backdrop(background, backed)
    return Prompt(text, scene, content.include, content.exclude)


def long_prompt(draw: Draw) -> Prompt:
    """A prompt that leaves little open: things with size and colour, where they are or how they lie, the background.

    With so much of a picture in its words, what the words mean is learned far sooner (experiments/NOTES.md). Its
    clauses ask for each shape's number only: GenEval's cannot tell things of one class and several colours apart.
    """
    scene, words = draw.choice((listed, placed, related) if draw.world.things > 1 else (listed, placed))(draw)
    counts = Counter(thing.shape for thing in scene.things)
    text = draw.choice(LEADS) + words + backdrop(scene.background, draw.chance(LONG_BACKED))
    return Prompt(text, scene, [{"class": shape, "count": count} for shape, count in counts.items()], [])


def several(draw: Draw) -> Scene:
    """Two things or more, or one where there are no more, of any kind."""
    return draw.scene([draw.kind() for _ in range(draw.several())])


def listed(draw: Draw) -> tuple[Scene, str]:
    """Two things or more, in any order."""
    scene = several(draw)
    return scene, described(draw.random.sample(scene.things, len(scene.things)))


def placed(draw: Draw) -> tuple[Scene, str]:
    """Two things or more and their places, from left to right."""
    scene = several(draw)
    return scene, placed_things(scene)


def related(draw: Draw) -> tuple[Scene, str]:
    """Two things, and on which side of the second the first is."""
    (where, relation), kinds = draw.choice(tuple(RELATIONS.items())), (draw.kind(), draw.kind())
    centres = draw.centres(kinds, lambda c: side(c[0], c[1]) == where)
    first, second = (article(describe(kind, Kind._fields)) for kind in kinds)
    return make_scene(draw.background(), kinds, centres, draw.image_size), f"{first} {relation} {second}"
