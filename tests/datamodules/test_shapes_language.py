"""Captions say what is there and parse back; nothing else parses; references name one thing."""

import re
from collections import Counter

import pytest

from datamodules.shapes import corpus, parse_caption
from datamodules.shapes.language import caption, describe, listing, reference
from datamodules.shapes.scenes import Draw, Kind

PLACE = r"at the (?:top left|top right|bottom left|bottom right|top|bottom|left|right)|in the middle"


def at(thing, side: int) -> str:
    """The place of a thing in words, from thirds of the picture."""
    row = "top " if thing.y < side / 3 else "bottom " if thing.y >= side * 2 / 3 else ""
    column = "left" if thing.x < side / 3 else "right" if thing.x >= side * 2 / 3 else ""
    return f"at the {row}{column}".strip() if row or column else "in the middle"


def test_captions_parse_back_in_reading_order():
    wordings = set()
    for seed in range(2000):
        draw = Draw(seed, 32, held_out=True)
        scene = draw.scene(draw.kinds())
        text = caption(draw, scene)
        assert parse_caption(text) == Counter(thing.kind for thing in scene.things)
        words = text.replace(",", "").split()
        shapes = [word for word in words if word in {"circle", "square", "triangle", "cross", "ring"}]
        assert shapes == [thing.shape for thing in scene.things]
        assert ("background" not in words) or scene.background in words
        placed = caption(draw, scene, places=True)
        assert re.findall(PLACE, placed) == [at(thing, scene.image_size) for thing in scene.things]
        wordings.add((words[0], "with" in words, words[-1] == "background"))
    assert len(wordings) >= 7


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "nothing",
        "a red circle",
        "a small red",
        "a small red circle and",
        "a small red circle, ",
        "a small red circle a small blue ring",
        "a small red circle and a small blue ring and a small blue ring",
        "a small red circle on a red background",
        "a white background with a small red circle on a white background and a ring",
        "there is there is a small red circle",
        "a medium red circle",
        "a small red circlet",
        "a small red circle\na small blue ring",
    ],
)
def test_what_is_no_caption_is_none(text):
    assert parse_caption(text) is None


def test_captions_are_counted():
    text = "i see a small red ring, a small red ring and a large navy square"
    assert parse_caption(text) is None  # navy is no colour of things
    assert parse_caption(text.replace("navy", "blue")) == {("small", "red", "ring"): 2, ("large", "blue", "square"): 1}


def test_listing():
    assert listing(["a"]) == "a"
    assert listing(["a", "b"]) == "a and b"
    assert listing(["a", "b", "c"]) == "a, b and c"


def test_references_name_exactly_one_thing():
    kinds = [Kind("small", "red", "ring"), Kind("large", "red", "ring"), Kind("large", "blue", "ring")]
    draw = Draw(0, 32, held_out=True)
    assert {reference(draw, kinds, 2) for _ in range(50)} == {
        "the blue object",
        "the blue ring",
        "the large blue object",
        "the large blue ring",
    }
    assert {reference(draw, kinds, 0, without="colour") for _ in range(50)} == {"the small ring"}
    assert reference(draw, kinds, 1, without="colour") is None
    assert reference(draw, [kinds[0], kinds[0]], 0) is None
    assert describe(kinds[0], ("size", "colour")) == "small red object"


def test_the_corpus_holds_every_word():
    texts = corpus()
    words = {word for text in texts for word in text.replace(",", " ").replace("?", " ").split()}
    assert len(words) < 100 and all(word.isalpha() and word.islower() for word in words)
    assert {"navy", "zero", "four", "crosses", "painting", "smaller", "bottom"} - words == {"painting"}
    assert texts == corpus()
