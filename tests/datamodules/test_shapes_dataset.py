"""Answers, prompts and edits agree with an independent reading of their words; what a split holds out stays out."""

import re
import time
from collections import Counter, defaultdict

import pytest
import torch

from datamodules.shapes import Shapes
from datamodules.shapes.dataset import SHARES, is_held_out
from datamodules.shapes.questions import ASKED, QUESTIONS
from datamodules.shapes.render import render
from datamodules.shapes.scenes import COLOURS, HELD_OUT, SHAPES, SIZES, Scene, Thing, extent
from unifluid.evaluation.geneval import TAGS, is_correct
from unifluid.interfaces import Detection
from unifluid.sequence import TASKS

NUMBERS = ["zero", "one", "two", "three", "four"]
SINGULAR = {**{shape + "s": shape for shape in SHAPES}, "crosses": "cross"}


def examples(task, n, split="train", **options):
    dataset = Shapes(task, split=split, **options)
    return [dataset[i] for i in range(n)]


def things_of(scene):
    return [Thing(*thing) for thing in scene["things"]]


def matching(things, words):
    """The things that a noun phrase describes, by its words alone."""
    words = [SINGULAR.get(word, word) for word in words.split() if word not in ("the", "a", "an", "object", "objects")]
    return [thing for thing in things if all(word in thing[:3] for word in words)]


def only(things, words):
    found = matching(things, words)
    assert len(found) == 1, (things, words)
    return found[0]


def yes(truth):
    return "yes" if truth else "no"


def is_there(a, where, b):
    """Whether a clearly lies `where` b; the opposite must be clear otherwise."""
    along = {"left": b.x - a.x, "right": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[where]
    across = abs(a.y - b.y) if where in ("left", "right") else abs(a.x - b.x)
    assert abs(along) >= 1.4 * across
    return along > 0


def answer_of(question, things):
    """The answer, worked out from the words of the question alone."""
    if m := re.fullmatch(r"what (?:colour is|is the colour of) (.*)\?", question):
        return only(things, m[1]).colour
    if m := re.fullmatch(r"what (?:shape is|is the shape of) (.*)\?", question):
        return only(things, m[1]).shape
    if m := re.fullmatch(r"what (?:size is|is the size of) (.*)\?", question):
        return only(things, m[1]).size
    if m := re.fullmatch(r"how many (.*) (?:are there|do you see)\?", question):
        return NUMBERS[len(matching(things, m[1]))]
    if m := re.fullmatch(r"(?:is there|do you see) (.*)\?", question):
        return yes(matching(things, m[1]))
    if m := re.fullmatch(r"where is (.*) relative to (.*)\?", question):
        return next(w for w in ("left", "right", "above", "below") if clear(only(things, m[1]), w, only(things, m[2])))
    if m := re.fullmatch(r"where is (.*)\?", question):
        thing = only(things, m[1])
        down, across = (("first", "", "last")[c // 11] for c in (thing.y, thing.x))  # 32 pixels in three parts
        words = {"first": "top", "last": "bottom"}.get(down, ""), {"first": "left", "last": "right"}.get(across, "")
        return " ".join(filter(None, words)) or "middle"
    if m := re.fullmatch(r"is (.*) (left|right|above|below)(?: of)? (.*)\?", question):
        return yes(is_there(only(things, m[1]), m[2], only(things, m[3])))
    if m := re.fullmatch(r"is (.*) (larger|smaller) than (.*)\?", question):
        a, b = only(things, m[1]), only(things, m[3])
        assert a.size != b.size
        return yes(a.size == {"larger": "large", "smaller": "small"}[m[2]])
    if m := re.fullmatch(r"are (.*) and (.*) the same (size|colour)\?", question):
        return yes(getattr(only(things, m[1]), m[3]) == getattr(only(things, m[2]), m[3]))
    if m := re.fullmatch(r"are there more (.*) than (.*)\?", question):
        return yes(len(matching(things, m[1])) > len(matching(things, m[2])))
    raise AssertionError(f"no such question: {question}")


def clear(a, where, b):
    try:
        return is_there(a, where, b)
    except AssertionError:
        return False


@pytest.mark.parametrize("split", ["train", "val", "compositional"])
def test_answers_follow_from_the_picture(split):
    every_kind = dict.fromkeys(QUESTIONS, 1.0)
    for example in examples("answer", 1200, split, question_shares=every_kind):
        (answer,) = example.answers
        assert answer == answer_of(example.question, things_of(example.meta["scene"])), example.question


def test_guessing_is_bad():
    by_kind = defaultdict(Counter)
    for example in examples("answer", 6000, "val"):
        by_kind[example.meta["kind"]][example.answers[0]] += 1
    limits = {"colour": 0.17, "shape": 0.25, "count": 0.25, "existence": 0.55, "relation": 0.31, "comparison": 0.55}
    for kind, limit in limits.items():
        counts = by_kind[kind]
        assert counts.total() == 1000
        assert counts.most_common(1)[0][1] / counts.total() < limit, (kind, counts)


def detections_of(things, image_size):
    """What a perfect detector sees."""
    for thing in things:
        reach = extent(thing.size, image_size)
        box = (thing.x - reach, thing.y - reach, thing.x + reach + 1, thing.y + reach + 1)
        yield Detection(thing.shape, 1.0, None, box, {"colour": thing.colour})


def assert_related(prompt, things):
    """Where a long prompt names a side, the first thing it names lies there."""
    if m := re.search("an? (large|small) .* (left|right|above|below)(?: of)? an? (.*?)(?: on .*)?$", prompt):
        second = matching(things, m[3])
        assert any(is_there(a, m[2], b) for b in second for a in things if a != b), prompt


@pytest.mark.parametrize("image_size", [32, 64])
@pytest.mark.parametrize(("split", "long"), [("train", 0.2), ("val", 0.0), ("compositional", 0.0)])
def test_pictures_show_what_prompts_name_and_nothing_else(split, long, image_size):
    for example in examples("generate", 900, split, image_size=image_size, long_prompts=long):
        things, meta = things_of(example.meta["scene"]), example.meta
        objects = defaultdict(list)
        for detection in detections_of(things, image_size):
            objects[detection.name].append(detection)
        assert torch.equal(example.target, render(Scene(meta["scene"]["background"], things, image_size)))
        assert is_correct(meta, objects, lambda found: [d.attributes["colour"] for d in found]), example.prompt
        assert len(things) == sum(clause["count"] for clause in meta["include"])
        words = example.prompt.replace(",", "").split()
        shapes = [SINGULAR.get(word, word) for word in words if SINGULAR.get(word, word) in SHAPES]
        assert Counter(shapes) == Counter(t.shape for t in things) or meta["tag"] == "counting"
        assert words[words.index("background") - 1] == meta["scene"]["background"] if "background" in words else True
        for size in set(words) & set(SIZES):
            assert any(thing.size == size for thing in things)
        if meta["tag"] == "long":
            assert Counter(word for word in words if word in COLOURS) == Counter(thing.colour for thing in things)
            if " at the " not in example.prompt:
                assert_related(example.prompt, things)
            continue
        coloured = [clause["color"] for clause in meta["include"] for _ in range(clause["count"]) if "color" in clause]
        assert Counter(word for word in words if word in COLOURS) == Counter(coloured)


def test_prompts_are_worded_like_geneval():
    prompts = defaultdict(set)
    for example in examples("generate", 20_000, shares=dict.fromkeys(TAGS, 1.0)):
        prompts[example.meta["tag"]].add(example.prompt)
    assert all(len(prompts[tag]) > 300 for tag in TAGS), {tag: len(texts) for tag, texts in prompts.items()}
    assert any(re.fullmatch("a photo of a [a-z]+", text) for text in prompts["single_object"])
    assert any(re.fullmatch("a photo of an? [a-z]+ left of an? [a-z]+", text) for text in prompts["position"])
    assert any(re.fullmatch("a photo of (two|three|four) [a-z]+", text) for text in prompts["counting"])
    assert any(re.fullmatch("a photo of an orange [a-z]+ and a blue [a-z]+", text) for text in prompts["color_attr"])
    assert not any(" a orange" in text for texts in prompts.values() for text in texts)


def test_shares_of_categories():
    tags = Counter(example.meta["tag"] for example in examples("generate", 6000))
    assert all(
        tags[tag] / 6000 == pytest.approx(share / sum(SHARES.values()), abs=0.02) for tag, share in SHARES.items()
    )
    assert {e.meta["tag"] for e in examples("generate", 50, shares={"colors": 1})} == {"colors"}
    kinds = Counter(e.meta["kind"] for e in examples("answer", 4000, question_shares={"count": 3, "relation": 1}))
    assert kinds.keys() == {"count", "relation"} and kinds["count"] == pytest.approx(3000, abs=120)
    assert Counter(e.meta["kind"] for e in examples("answer", 60, "val")) == dict.fromkeys(ASKED, 10)
    assert Counter(e.meta["tag"] for e in examples("generate", 60, "val")) == dict.fromkeys(TAGS, 10)
    assert {e.meta["tag"] for e in examples("generate", 60, "compositional")} == {"colors", "color_attr"}
    assert sum(e.meta["tag"] == "long" for e in examples("generate", 500, long_prompts=0.5)) == pytest.approx(
        250, abs=50
    )


def test_captions_say_where_things_are_when_asked_to():
    asked = Counter()
    for example in examples("caption", 500, places=0.4):
        asked[example.prompt] += 1
        things = len(things_of(example.meta["scene"]))
        places = len(re.findall(r"at the |in the middle", example.caption))
        assert places == (things if example.prompt == "caption en with places" else 0)
    assert asked["caption en with places"] == pytest.approx(200, abs=45) and len(asked) == 2
    assert {example.prompt for example in examples("caption", 50, "val", places=0.4)} == {"caption en"}


def test_validation_prompts_never_occur_in_training():
    train = {example.prompt for example in examples("generate", 15_000, long_prompts=0.1)}
    val = {example.prompt for example in examples("generate", 1500, "val")}
    assert not train & val
    assert all(is_held_out(prompt) for prompt in val) and not any(map(is_held_out, train))
    assert len(val) / (len(train) + len(val)) < 0.15
    drawn = {f"a {size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES}
    drawn |= {f"{a} and {b}" for a in drawn for b in drawn}
    assert sum(map(is_held_out, drawn)) / len(drawn) == pytest.approx(0.15, abs=0.015)


def texts_of(example):
    return [text for text in (example.condition, example.response) if text]


def pairs_of(example):
    """(shape, colour) pairs in the pictures and in the words of an example."""
    scenes = [example.meta[key] for key in ("scene", "source") if key in example.meta]
    shown = {(thing.shape, thing.colour) for scene in scenes for thing in things_of(scene)}
    named = re.findall(f"({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})", " ".join(texts_of(example)))
    return shown | {(shape, colour) for colour, shape in named}


@pytest.mark.parametrize("task", TASKS)
def test_held_out_pairs_are_only_in_the_compositional_split(task):
    held_out = set(HELD_OUT.items())
    assert len(set(HELD_OUT.values())) == len(SHAPES) == len(HELD_OUT)
    for split in ("train", "val"):
        seen = set().union(*map(pairs_of, examples(task, 1500, split)))
        assert not seen & held_out and len(seen) == 35
    asked = [pairs_of(example) & held_out for example in examples(task, 300, "compositional")]
    assert all(asked) and set().union(*asked) == held_out


def edited(things, instruction, image_size):
    """The things after the instruction, by its words alone; None for a place that it leaves open."""
    if m := re.fullmatch(r"(?:make|paint) (the .*) ([a-z]+)", instruction):
        thing = only(things, m[1])
        return [t._replace(colour=m[2]) if t == thing else t for t in things]
    if m := re.fullmatch(r"remove (.*)", instruction):
        thing = only(things, m[1])
        return [t for t in things if t != thing]
    if m := re.fullmatch(r"add an? ([a-z]+) ([a-z]+) ([a-z]+)", instruction):
        return [*things, Thing(*m.groups(), None, None)]
    if m := re.fullmatch(r"move (.*) to the (left|right|top|bottom)", instruction):
        thing = only(things, m[1])
        edge = (
            extent(thing.size, image_size)
            if m[2] in ("left", "top")
            else image_size - 1 - extent(thing.size, image_size)
        )
        axis = "x" if m[2] in ("left", "right") else "y"
        assert abs(getattr(thing, axis) - edge) >= image_size // 8
        return [t._replace(**{axis: edge}) if t == thing else t for t in things]
    raise AssertionError(f"no such instruction: {instruction}")


@pytest.mark.parametrize("split", ["train", "compositional"])
def test_edits_do_what_they_say(split):
    for example in examples("edit", 800, split):
        source, target = things_of(example.meta["source"]), things_of(example.meta["scene"])
        expected = edited(source, example.instruction, 32)
        for thing in set(target) - set(expected):  # what was added, wherever it is
            expected[expected.index(thing._replace(x=None, y=None))] = thing
        assert sorted(expected) == sorted(target)
        assert example.meta["source"]["background"] == example.meta["scene"]["background"]
        assert torch.equal(example.image, render(Scene(example.meta["source"]["background"], source, 32)))
        assert torch.equal(example.target, render(Scene(example.meta["scene"]["background"], target, 32)))
        assert not torch.equal(example.image, example.target)
    kinds = Counter(example.meta["kind"] for example in examples("edit", 40))
    assert kinds == {"recolour": 10, "add": 10, "remove": 10, "move": 10}


def contents(example):
    images = [image for image in (*example.images, example.target) if image is not None]
    return example.id, example.condition, example.response, example.meta, [image.tolist() for image in images]


@pytest.mark.parametrize("task", TASKS)
def test_an_example_is_a_function_of_its_index(task):
    far = 10**12
    first, again, other = (Shapes(task, seed=seed, length=far + 1) for seed in (3, 3, 4))
    assert contents(first[far]) == contents(again[far]) != contents(other[far])
    assert [again[i].condition for i in range(20)] == [first[i].condition for i in range(20)]
    assert contents(Shapes(task)[7])[1:] != contents(Shapes(task, split="val")[7])[1:]


def test_captions_are_right_in_any_wording():
    dataset = Shapes("caption")
    example = dataset[2]
    assert dataset.score_text(example, example.caption)
    assert not dataset.score_text(example, dataset[3].caption) and not dataset.score_text(example, "")
    questions = Shapes("answer")
    assert questions.score_text(questions[0], questions[0].answers[0]) and not questions.score_text(
        questions[0], "what"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "draw"}, "task must be one of caption, answer, generate, edit, got 'draw'"),
        ({"task": "caption", "split": "test"}, "split must be one of"),
        ({"task": "caption", "image_size": 16}, "image_size must be at least 32"),
        ({"task": "generate", "shares": {"colours": 1}}, r"unknown categories \['colours'\]"),
        ({"task": "generate", "shares": {"colors": 0}}, "shares must"),
        ({"task": "answer", "question_shares": {"weight": 1}}, r"question_shares names unknown \w+ \['weight'\]"),
        ({"task": "answer", "question_shares": {"count": -1}}, "question_shares must"),
        ({"task": "generate", "long_prompts": 2}, "long_prompts must"),
        ({"task": "caption", "places": -1}, "places must"),
        ({"task": "generate", "length": 0}, "length must"),
        ({"task": "caption", "shapes": ["circle", "star"]}, r"shapes has \['star'\]; there are circle"),
        ({"task": "caption", "colours": ["red", "red", "blue"]}, "colours must be at least 3 different ones"),
        ({"task": "caption", "things": 0}, "things must be from 1 to 4, got 0"),
        ({"task": "caption", "backgrounds": []}, r"backgrounds must be at least 1 different ones, got \[\]"),
        ({"task": "caption", "backgrounds": ["navy", "navy"]}, "backgrounds must be at least 1 different ones"),
        ({"task": "caption", "backgrounds": ["red"]}, r"backgrounds has \['red'\]; there are white"),
        ({"task": "caption", "split": "compositional", "colours": ["red", "yellow", "brown"]}, "no pair of shapes"),
    ],
)
def test_mistakes_have_one_clear_line(options, message):
    with pytest.raises(ValueError, match=message):
        Shapes(**options)


@pytest.mark.parametrize("split", ["train", "compositional"])
@pytest.mark.parametrize("task", TASKS)
def test_a_smaller_world_has_no_more(task, split):
    small = {"shapes": ["circle", "ring"], "colours": ["red", "green", "blue"], "things": 2, "long_prompts": 0.3}
    dataset = Shapes(task, split=split, question_shares=dict.fromkeys(QUESTIONS, 1.0), **small)
    for example in (dataset[i] for i in range(200)):
        for scene in (example.meta["scene"], example.meta.get("source", example.meta["scene"])):
            kinds = {(thing.colour, thing.shape) for thing in things_of(scene)}
            assert kinds <= {(c, s) for c in small["colours"] for s in small["shapes"]}
            assert split == "compositional" or ("green", "circle") not in kinds
            assert len(scene["things"]) <= 2
        assert not {"square", "triangle", "cross", "pink", "yellow"} & set(" ".join(texts_of(example)).split())


@pytest.mark.parametrize("split", ["train", "val", "compositional"])
@pytest.mark.parametrize("task", TASKS)
def test_a_world_of_one_thing(task, split):
    """Nothing that takes two is drawn or asked, whatever its share; all else is."""
    every = {"shares": dict.fromkeys(TAGS, 1.0), "question_shares": dict.fromkeys(QUESTIONS, 1.0)}
    backgrounds = ["navy", "white"]
    found = examples(task, 500, split, things=1, long_prompts=0.3, places=0.3, backgrounds=backgrounds, **every)
    two = "left|right|above|below|than|same|and|more|two|three|four|larger|smaller"
    for example in found:
        for scene in (example.meta["scene"], example.meta.get("source", example.meta["scene"])):
            assert len(scene["things"]) <= 1 and scene["background"] in backgrounds
        words = example.instruction.partition(" to the ")[0] if task == "edit" else " ".join(texts_of(example))
        words = re.sub(r"(at the|in the) [a-z ]+", "", words)  # its place in the picture
        assert task == "answer" or not re.search(rf"\b({two})\b", words), words
    assert {example.meta["scene"]["background"] for example in found} == set(backgrounds)
    if task == "generate":
        tags = (
            {"colors"}
            if split == "compositional"
            else {"single_object", "colors"} | ({"long"} if split == "train" else set())
        )
        assert {example.meta["tag"] for example in found} == tags
    if task == "answer":
        kinds = {example.meta["kind"] for example in found}
        assert kinds <= set(QUESTIONS) - {"relation", "comparison"} and kinds >= {
            "colour",
            "shape",
            "count",
            "existence",
        }
        assert all(e.answers[0] == answer_of(e.question, things_of(e.meta["scene"])) for e in found)


def test_prompts_of_two_are_no_choice_for_one_thing():
    with pytest.raises(ValueError, match="shares must"):
        Shapes("generate", things=1, shares={"two_object": 1, "colors": 0})
    assert Shapes("generate", things=2, shares={"two_object": 1})[0].meta["tag"] == "two_object"


@pytest.mark.parametrize("split", ["train", "val", "compositional"])
def test_edits_are_judged_from_pictures(split):
    dataset = Shapes("edit", split=split)
    for example in (dataset[i] for i in range(40)):
        assert dataset.score_edit(example, example.target) == (True, True), example.instruction
        assert dataset.score_edit(example, example.image) == (False, True), example.instruction
        assert dataset.score_edit(example, torch.zeros_like(example.target)) == (False, False)


def test_tags_without_weight_are_not_asked():
    dataset = Shapes("generate", split="val", shares={"single_object": 1, "colors": 1, "counting": 0})
    assert [dataset[i].meta["tag"] for i in range(4)] == ["single_object", "colors"] * 2


def test_indices_end():
    with pytest.raises(IndexError):
        Shapes("caption", length=3)[3]


@pytest.mark.parametrize("task", TASKS)
def test_examples_are_cheap(task):
    """Training draws hundreds a second beside its own work: .1 ms each here, with room for slower machines."""
    dataset, costs = Shapes(task), []
    for batch in range(5):
        start = time.process_time()
        for i in range(batch * 200, batch * 200 + 200):
            dataset[i]
        costs.append((time.process_time() - start) / 200)
    assert min(costs) < 5e-4
