"""Edit triples: a scene, an instruction, and the scene after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from datamodules.shapes.language import article, describe, reference
from datamodules.shapes.scenes import Draw, Kind, Scene, Thing, apart, extent, make_scene


class Edit(NamedTuple):
    source: Scene
    instruction: str
    target: Scene


def nameable(draw: Draw) -> tuple[list[Kind], str]:
    """Kinds of which the first can be named among the others, and its name."""
    while True:
        kinds = draw.kinds()
        if name := reference(draw, kinds, 0):
            return kinds, name


def recolour(draw: Draw) -> Edit:
    kinds, name = nameable(draw)
    new = kinds[0]
    while new.colour == kinds[0].colour:
        new = draw.kind(size=new.size, shape=new.shape)
    background, centres = draw.background(), draw.centres(kinds)
    source, target = (
        make_scene(background, [first, *kinds[1:]], centres, draw.image_size) for first in (kinds[0], new)
    )
    return Edit(source, draw.choice((f"make {name} {new.colour}", f"paint {name} {new.colour}")), target)


def add(draw: Draw) -> Edit:
    kinds = [*draw.kinds()[: draw.world.things - 1], draw.kind()]
    return _with_and_without(draw, kinds, f"add {article(describe(kinds[-1], ('size', 'colour', 'shape')))}")


def remove(draw: Draw) -> Edit:
    kinds, name = nameable(draw)
    without, whole = _with_and_without(draw, [*kinds[1:], kinds[0]], "")[::2]
    return Edit(whole, f"remove {name}", without)


def _with_and_without(draw: Draw, kinds: list[Kind], instruction: str) -> Edit:
    """From a scene without the last of `kinds` to the scene with it."""
    background, centres = draw.background(), draw.centres(kinds)
    source, target = (make_scene(background, kinds[:n], centres[:n], draw.image_size) for n in (len(kinds) - 1, None))
    return Edit(source, instruction, target)


def move(draw: Draw) -> Edit:
    """One thing goes straight to an edge, at least an eighth of the picture away, where there is room for it."""
    size = draw.image_size
    while True:
        kinds, name = nameable(draw)
        centres = draw.centres(kinds)
        x, y = centres[0]
        reach = extent(kinds[0].size, size)
        far = size - 1 - reach
        where = draw.choice(("left", "right", "top", "bottom"))
        new = {"left": (reach, y), "right": (far, y), "top": (x, reach), "bottom": (x, far)}[where]
        room = all(
            apart(new, c, reach + extent(kind.size, size)) for c, kind in zip(centres[1:], kinds[1:], strict=True)
        )
        if room and abs(new[0] - x) + abs(new[1] - y) >= size // 8:
            background = draw.background()
            source, target = (make_scene(background, kinds, [c, *centres[1:]], size) for c in ((x, y), new))
            return Edit(source, f"move {name} to the {where}", target)


EDITS: dict[str, Callable[[Draw], Edit]] = {function.__name__: function for function in (recolour, add, remove, move)}

REACH = 16  # a thing is where it should be within this fraction of the picture's side


def judge_edit(source: dict[str, Any], target: dict[str, Any], drawn: Scene | None, free: bool) -> tuple[bool, bool]:
    """Scenes before and after an edit (`Scene.to_dict`), and what was drawn -> whether it shows what was asked for, and
    whether the background and all that source and target share are as they were. `free`: where a new thing lies is
    left open."""
    if drawn is None:
        return False, False
    before, after = ([Thing(*thing) for thing in scene["things"]] for scene in (source, target))
    kept, asked = [t for t in after if t in before], [t for t in after if t not in before]
    gone = [t for t in before if t not in after]
    reach, left = drawn.image_size // REACH, list(drawn.things)

    def find(thing: Thing, anywhere: bool) -> bool:
        """Take a thing of this kind, at this place, out of what is left."""
        for other in left:
            near = max(abs(other.x - thing.x), abs(other.y - thing.y)) <= reach
            if other.kind == thing.kind and (near or anywhere):
                left.remove(other)
                return True
        return False

    untouched = all([find(thing, False) for thing in kept]) and drawn.background == target["background"]
    right = all([find(thing, free) for thing in asked]) and not any([find(thing, False) for thing in gone])
    missing = len(kept) + len(asked) - (len(drawn.things) - len(left))
    return right and len(left) <= missing, untouched
