"""Scenes: what a picture shows, drawn at random as a function of a seed and an index.

A `Scene` is ground truth: a background and one to four things, each with shape, colour, size and the pixel its centre
lies on. Things never overlap: their bounding boxes are at least `GAP` pixels apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeVar

SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = {"small": 0.13, "large": 0.2}  # radius as a share of the image's side
COLOURS = {  # eight of GenEval's ten, at least 107 apart in RGB
    "red": (225, 20, 30),
    "orange": (255, 130, 0),
    "yellow": (255, 235, 20),
    "green": (20, 160, 50),
    "blue": (20, 70, 235),
    "purple": (135, 25, 170),
    "pink": (255, 135, 205),
    "brown": (115, 65, 25),
}
BACKGROUNDS = {"white": (255, 255, 255), "grey": (120, 120, 120), "cyan": (120, 215, 230), "navy": (20, 25, 75)}
# (shape, colour) pairs that only the compositional split has: one for each shape, no colour twice.
HELD_OUT = {"circle": "green", "square": "pink", "triangle": "blue", "cross": "orange", "ring": "purple"}
MAX_THINGS = 4
GAP = 2  # pixels between two things' boxes, so that they stay apart when drawn softly
CLEARLY = 1.5  # one axis decides a relation where its distance is this many times the other's
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

SIZE_NAMES, COLOUR_NAMES, BACKGROUND_NAMES = tuple(SIZES), tuple(COLOURS), tuple(BACKGROUNDS)

Position = tuple[int, int]
T = TypeVar("T")


class World:
    """What there is to draw: shapes, colours, backgrounds, and how many things a scene may have at most.

    Raises ValueError where prompts, questions and edits would find too little of something.
    """

    def __init__(
        self,
        shapes: Sequence[str] = SHAPES,
        colours: Sequence[str] = COLOUR_NAMES,
        things: int = MAX_THINGS,
        backgrounds: Sequence[str] = BACKGROUND_NAMES,
    ) -> None:
        for name, given, known, least in (
            ("shapes", shapes, SHAPES, 2),
            ("colours", colours, COLOUR_NAMES, 3),
            ("backgrounds", backgrounds, BACKGROUND_NAMES, 1),
        ):
            if unknown := set(given) - set(known):
                raise ValueError(f"{name} has {sorted(unknown)}; there are {', '.join(known)}")
            if len(set(given)) < max(least, len(given)):
                raise ValueError(f"{name} must be at least {least} different ones, got {list(given)}")
        if not 1 <= things <= MAX_THINGS:
            raise ValueError(f"things must be from 1 to {MAX_THINGS}, got {things}")
        self.shapes, self.colours, self.things = tuple(shapes), tuple(colours), things
        self.backgrounds = tuple(backgrounds)

    @cached_property
    def palettes(self) -> dict[bool, dict[str, tuple[str, ...]]]:
        """The colours each shape may have: all (True), or all but the held-out one (False)."""
        seen = {shape: tuple(c for c in self.colours if c != HELD_OUT[shape]) for shape in self.shapes}
        return {True: dict.fromkeys(self.shapes, self.colours), False: seen}


WORLD = World()


class Kind(NamedTuple):
    """What a caption says of one thing."""

    size: str
    colour: str
    shape: str

    @property
    def pair(self) -> tuple[str, str]:
        """(shape, colour): what the compositional split holds out."""
        return self.shape, self.colour


class Thing(NamedTuple):
    """One thing of a scene; (x, y) is the pixel its centre lies on."""

    size: str
    colour: str
    shape: str
    x: int
    y: int

    @property
    def kind(self) -> Kind:
        return Kind(self.size, self.colour, self.shape)


class Scene(NamedTuple):
    """A picture's ground truth, `image_size` pixels square. Things are in reading order: left to right."""

    background: str
    things: tuple[Thing, ...]
    image_size: int

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple(thing.kind.pair for thing in self.things)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for an example's `meta`."""
        return {"background": self.background, "things": [list(thing) for thing in self.things]}


def radius(size: str, image_size: int) -> float:
    """Radius in pixels of a thing of this size."""
    return SIZES[size] * image_size


@cache
def extent(size: str, image_size: int) -> int:
    """Pixels a thing reaches from its centre pixel in every direction: its box is 2·extent + 1 wide."""
    return math.ceil(radius(size, image_size) - 0.5)


def make_scene(background: str, kinds: Sequence[Kind], centres: Sequence[Position], image_size: int) -> Scene:
    """A scene with its things in reading order: by x, then y."""
    things = [Thing(*kind, *centre) for kind, centre in zip(kinds, centres, strict=True)]
    return Scene(background, tuple(sorted(things, key=lambda thing: (thing.x, thing.y))), image_size)


def side(a: Position, b: Position) -> str | None:
    """On which side of b lies a? None where neither axis clearly decides."""
    dx, dy = a[0] - b[0], a[1] - b[1]
    if abs(dx) >= CLEARLY * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) >= CLEARLY * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def apart(a: Position, b: Position, reach: int) -> bool:
    """Whether two boxes whose extents add up to `reach` are at least GAP pixels apart."""
    least = reach + 1 + GAP
    return abs(a[0] - b[0]) >= least or abs(a[1] - b[1]) >= least


class Draw:
    """The random draws of one example.

    In the splits `train` and `val` no held-out (shape, colour) pair is ever drawn; `compositional` draws any pair.
    """

    def __init__(self, seed: int, image_size: int, held_out: bool, world: World = WORLD) -> None:
        self.random = random.Random(seed)
        self.image_size = image_size
        self.world, self.palettes = world, world.palettes[held_out]

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return int(self.random.random() * n)

    def chance(self, p: float) -> bool:
        return self.random.random() < p

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shapes(self, n: int) -> list[str]:
        """n different shapes."""
        return self.random.sample(self.world.shapes, n)

    def kind(self, size: str | None = None, colour: str | None = None, shape: str | None = None) -> Kind:
        """A kind whose given attributes are kept; the others are drawn."""
        if shape is None:
            shape = self.choice([s for s in self.world.shapes if colour is None or colour in self.palettes[s]])
        return Kind(size or self.choice(SIZE_NAMES), colour or self.choice(self.palettes[shape]), shape)

    def kinds(self) -> list[Kind]:
        """From one kind to as many as the world allows, independent of each other."""
        return [self.kind() for _ in range(1 + self.below(self.world.things))]

    def several(self) -> int:
        """A number of things, two at least where the world has as many."""
        least = min(2, self.world.things)
        return least + self.below(self.world.things - least + 1)

    def background(self) -> str:
        return self.choice(self.world.backgrounds)

    def place(self, sizes: Sequence[str]) -> list[Position] | None:
        """Centres for things of `sizes`, one after another; None where chance left no room. A hot loop."""
        uniform, boxes = self.random.random, []
        for size in sizes:
            reach = extent(size, self.image_size)
            span = self.image_size - 2 * reach
            for _ in range(16):
                x, y = reach + int(uniform() * span), reach + int(uniform() * span)
                for other_x, other_y, other in boxes:
                    least = reach + other + 1 + GAP
                    if -least < x - other_x < least and -least < y - other_y < least:
                        break
                else:
                    boxes.append((x, y, reach))
                    break
            else:
                return None
        return [(x, y) for x, y, _ in boxes]

    def centres(
        self, kinds: Sequence[Kind], fits: Callable[[list[Position]], bool] = lambda centres: True
    ) -> list[Position]:
        """Centres for `kinds`, tried until everything has room and `fits` holds."""
        sizes = [kind.size for kind in kinds]
        while True:
            centres = self.place(sizes)
            if centres is not None and fits(centres):
                return centres

    def scene(self, kinds: Sequence[Kind]) -> Scene:
        """A scene of `kinds` at free positions."""
        return make_scene(self.background(), kinds, self.centres(kinds), self.image_size)
