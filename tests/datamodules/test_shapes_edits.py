"""An edit is judged by hand-made scenes: what was asked for has been done, and all the rest is as it was."""

import pytest

from datamodules.shapes.edits import judge_edit
from datamodules.shapes.scenes import Scene, Thing

SIZE = 32  # so that two pixels off are near, and three are not
RED, BLUE = Thing("large", "red", "circle", 8, 8), Thing("small", "blue", "square", 24, 8)
GREEN, NEW = RED._replace(colour="green"), Thing("small", "pink", "ring", 20, 24)
SOURCE = (RED, BLUE)
RIGHT, WRONG, TOUCHED, NEITHER = (True, True), (False, True), (True, False), (False, False)


def judge(after, drawn, background="white", free=False):
    source, target = (Scene("white", things, SIZE).to_dict() for things in (SOURCE, after))
    return judge_edit(source, target, drawn if drawn is None else Scene(background, tuple(drawn), SIZE), free)


def off(thing, x=0, y=0):
    return thing._replace(x=thing.x + x, y=thing.y + y)


RECOLOUR, REMOVE, ADD, MOVE = (GREEN, BLUE), (BLUE,), (RED, BLUE, NEW), (off(RED, y=15), BLUE)


@pytest.mark.parametrize(
    ("after", "drawn", "verdict"),
    [
        (RECOLOUR, [BLUE, GREEN], RIGHT),
        (RECOLOUR, [off(BLUE, 2, -2), off(GREEN, -2, 2)], RIGHT),
        (RECOLOUR, SOURCE, WRONG),
        (RECOLOUR, [RED, BLUE._replace(colour="green")], NEITHER),  # the wrong thing
        (RECOLOUR, [GREEN._replace(colour="pink"), BLUE], WRONG),
        (RECOLOUR, [GREEN._replace(size="small"), BLUE], WRONG),
        (RECOLOUR, [GREEN._replace(shape="ring"), BLUE], WRONG),
        (RECOLOUR, [off(GREEN, 3), BLUE], WRONG),
        (RECOLOUR, [GREEN, off(BLUE, 3)], TOUCHED),
        (RECOLOUR, [GREEN, BLUE._replace(colour="pink")], TOUCHED),
        (RECOLOUR, [GREEN], TOUCHED),
        (RECOLOUR, [BLUE], WRONG),
        (RECOLOUR, [], NEITHER),
        (RECOLOUR, [GREEN, BLUE, NEW], WRONG),  # one too many
        (RECOLOUR, [GREEN, BLUE, off(RED, y=16)], WRONG),
        (RECOLOUR, [GREEN, off(BLUE, y=12), NEW], NEITHER),
        (REMOVE, [BLUE], RIGHT),
        (REMOVE, SOURCE, WRONG),
        (REMOVE, [RED], NEITHER),  # the wrong one is gone
        (REMOVE, [off(BLUE, y=9)], TOUCHED),
        (REMOVE, [], TOUCHED),
        (REMOVE, [BLUE, NEW], WRONG),
        (MOVE, [off(RED, y=15), BLUE], RIGHT),
        (MOVE, [off(RED, y=13), BLUE], RIGHT),
        (MOVE, [off(RED, y=12), BLUE], WRONG),
        (MOVE, [RED, off(RED, y=15), BLUE], WRONG),  # it is still where it was
        (MOVE, SOURCE, WRONG),
        (MOVE, [RED, off(BLUE, y=15)], NEITHER),
        (ADD, [RED, BLUE, NEW], RIGHT),
        (ADD, [RED, BLUE, off(NEW, -8)], WRONG),
        (ADD, SOURCE, WRONG),
    ],
)
def test_verdicts(after, drawn, verdict):
    assert judge(after, drawn) == verdict


@pytest.mark.parametrize(
    ("drawn", "verdict"),
    [
        ([RED, BLUE, off(NEW, -8)], RIGHT),
        ([RED, off(BLUE, y=12), off(NEW, -8)], TOUCHED),
        ([RED, BLUE, NEW._replace(colour="red")], WRONG),
        ([RED, BLUE, NEW, off(NEW, -12)], WRONG),
        (SOURCE, WRONG),
    ],
)
def test_where_a_new_thing_lies_may_be_open(drawn, verdict):
    assert judge(ADD, drawn, free=True) == verdict


def test_a_new_thing_of_a_kind_that_is_there_is_not_the_one_that_was_there():
    twice = (*SOURCE, off(RED, y=16))
    assert judge(twice, twice, free=True) == RIGHT
    assert judge(twice, SOURCE, free=True) == WRONG


def test_backgrounds_stay():
    assert judge(RECOLOUR, RECOLOUR, background="navy") == TOUCHED
    assert judge(RECOLOUR, SOURCE, background="navy") == NEITHER
    assert judge(RECOLOUR, None) == NEITHER, "no scene at all"
