"""The synthetic data set: any number of examples of one task, each a function of (seed, split, task, index)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor

from datamodules.base import ExampleDataset
from datamodules.shapes import prompts, questions
from datamodules.shapes.edits import EDITS, judge_edit
from datamodules.shapes.language import CAPTION_PROMPT, PLACES_PROMPT, caption, parse_caption
from datamodules.shapes.prompts import TAGS, long_prompt, make_prompt
from datamodules.shapes.questions import ASKED, QUESTIONS
from datamodules.shapes.render import render
from datamodules.shapes.scenes import BACKGROUND_NAMES, COLOUR_NAMES, HELD_OUT, MAX_THINGS, SHAPES, Draw, Scene, World
from unifluid import randomness
from unifluid.sequence import TASKS, Example, Task

Split = Literal["train", "val", "compositional"]
SHARES = {"single_object": 2.0, "two_object": 4.0, "counting": 3.0, "colors": 1.0, "position": 3.0, "color_attr": 4.0}
QUESTION_SHARES = dict.fromkeys(ASKED, 1.0)
COMPOSITIONAL_TAGS = ("colors", "color_attr")  # the categories whose prompts name colours
HELD_OUT_PROMPTS = 15  # percent


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to validation and never to training: its hash decides."""
    return randomness.derive(0, "prompt", prompt) % 100 < HELD_OUT_PROMPTS


def check_shares(name: str, shares: Mapping[str, float], known: Iterable[str]) -> None:
    """Raises ValueError where relative weights name something unknown or are not positive."""
    if unknown := set(shares) - set(known):
        raise ValueError(f"{name} names unknown categories {sorted(unknown)}; there are {', '.join(known)}")
    if min(shares.values(), default=0) < 0 or sum(shares.values()) <= 0:
        raise ValueError(f"{name} must be positive weights, got {dict(shares)}")


class Draft(NamedTuple):
    """An example before it is accepted and rendered."""

    fields: dict[str, Any]  # texts of the Example
    meta: dict[str, Any]
    image: Scene | None = None
    target: Scene | None = None
    pairs: tuple[tuple[str, str], ...] = ()  # the (shape, colour) pairs it shows or asks for


class Shapes(ExampleDataset):
    """Examples of one task.

    split: `train`; `val` draws other scenes, and prompts that never occur in training; `compositional` holds examples
    about (shape, colour) pairs that occur in neither. val and compositional go through the categories of prompts in
    turn, train draws them by `shares` (relative weights by GenEval tag; a tag of weight 0 is in no split). Kinds of
    questions do the same with `question_shares`, which may name two more that only teach, size and position; kinds of
    edits take turns.
    long_prompts: share of training prompts that describe everything in the picture.
    places: share of training captions that are asked to say where things are, and do.
    shapes, colours, things, backgrounds: a smaller world, learned sooner: fewer of them, and at most so many things in
    a scene. Where that is one thing, prompts and questions about two do not occur, whatever their shares.
    """

    def __init__(
        self,
        task: Task,
        image_size: int = 32,
        split: Split = "train",
        seed: int = 0,
        length: int = 1_000_000,
        shares: Mapping[str, float] = SHARES,
        question_shares: Mapping[str, float] = QUESTION_SHARES,
        long_prompts: float = 0.0,
        places: float = 0.0,
        shapes: Sequence[str] = SHAPES,
        colours: Sequence[str] = COLOUR_NAMES,
        things: int = MAX_THINGS,
        backgrounds: Sequence[str] = BACKGROUND_NAMES,
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
        if split not in get_args(Split):
            raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
        if image_size < 32:
            raise ValueError(f"image_size must be at least 32, where four large things fit, got {image_size}")
        self.world = World(shapes, colours, things, backgrounds)
        if things == 1:
            shares = {tag: share for tag, share in shares.items() if tag not in prompts.TAKE_TWO}
            question_shares = {kind: n for kind, n in question_shares.items() if kind not in questions.TAKE_TWO}
        check_shares("shares", shares, TAGS)
        check_shares("question_shares", question_shares, QUESTIONS)
        for name, share in {"long_prompts": long_prompts, "places": places}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {share}")
        if not 1 <= length <= sys.maxsize:
            raise ValueError(f"length must be at least 1, and a number that can be counted to, got {length}")
        self.task, self.image_size, self.split, self.seed, self.length = task, image_size, split, seed, length
        self.shares, self.question_shares = dict(shares), dict(question_shares)
        self.long_prompts, self.places = long_prompts, places
        if split == "compositional" and not any(HELD_OUT[shape] in self.world.colours for shape in self.world.shapes):
            raise ValueError(f"no pair of shapes and colours here is held out; there are {HELD_OUT}")
        self.make: Callable[[Draw, int], Draft] = getattr(self, f"_{task}")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} outside 0…{self.length - 1}")
        key = randomness.derive(self.seed, "shapes", self.split, self.task, index)
        draw = Draw(key, self.image_size, self.split == "compositional", self.world)
        draft = self.make(draw, index)
        while not self._accepts(draft):
            draft = self.make(draw, index)
        return Example(
            id=f"shapes/{self.split}/{self.task}/{index}",
            task=self.task,
            image=None if draft.image is None else render(draft.image),
            target=None if draft.target is None else render(draft.target),
            meta=draft.meta,
            **draft.fields,
        )

    def texts(self) -> Iterator[str]:
        """The whole language of the data set, whatever the task: streams of several tasks share a vocabulary."""
        return iter(corpus())

    def score_text(self, example: Example, text: str) -> bool:
        """A caption is right, however worded, if it names exactly the things that are there."""
        if example.task == "caption":
            return parse_caption(text) == parse_caption(example.caption)
        return super().score_text(example, text)

    def score_edit(self, example: Example, image: Tensor) -> tuple[bool, bool]:
        """By the analyser: the things asked for and no others; and all others, and the background, as they were."""
        from datamodules.shapes.analyser import ShapesAnalyser

        source, target = example.meta["source"], example.meta["scene"]
        return judge_edit(source, target, ShapesAnalyser().scene(image), free=example.meta["kind"] == "add")

    def _accepts(self, draft: Draft) -> bool:
        if self.split == "compositional":
            return any(HELD_OUT[shape] == colour for shape, colour in draft.pairs)
        return self.task != "generate" or is_held_out(draft.fields["prompt"]) == (self.split == "val")

    def _caption(self, draw: Draw, index: int) -> Draft:
        scene = draw.scene(draw.kinds())
        places = self.split == "train" and draw.chance(self.places)
        fields = {"prompt": PLACES_PROMPT if places else CAPTION_PROMPT, "caption": caption(draw, scene, places)}
        return Draft(fields, {"scene": scene.to_dict()}, image=scene, pairs=scene.pairs)

    def _answer(self, draw: Draw, index: int) -> Draft:
        kind = self._kind(draw, index, self.question_shares, tuple(ASKED))
        question = QUESTIONS[kind](draw)
        fields = {"question": question.text, "answers": (question.answer,)}
        meta = {"kind": kind, "scene": question.scene.to_dict()}
        return Draft(fields, meta, image=question.scene, pairs=tuple(question.pairs))

    def _generate(self, draw: Draw, index: int) -> Draft:
        if self.split == "train" and draw.chance(self.long_prompts):
            tag, prompt = "long", long_prompt(draw)
        else:
            tags = COMPOSITIONAL_TAGS if self.split == "compositional" else TAGS
            tag = self._kind(draw, index, self.shares, tags)
            prompt = make_prompt(draw, tag)
        named = tuple((clause["class"], clause["color"]) for clause in prompt.include if "color" in clause)
        meta = {"tag": tag, "include": prompt.include, "exclude": prompt.exclude, "scene": prompt.scene.to_dict()}
        return Draft({"prompt": prompt.text}, meta, target=prompt.scene, pairs=named)

    def _kind(self, draw: Draw, index: int, shares: Mapping[str, float], in_turn: tuple[str, ...]) -> str:
        if self.split == "train":
            return draw.random.choices(list(shares), list(shares.values()))[0]
        asked = [kind for kind in in_turn if shares.get(kind, 0) > 0] or in_turn
        return asked[index % len(asked)]

    def _edit(self, draw: Draw, index: int) -> Draft:
        kind = list(EDITS)[index % len(EDITS)]
        edit = EDITS[kind](draw)
        meta = {"kind": kind, "source": edit.source.to_dict(), "scene": edit.target.to_dict()}
        pairs = edit.source.pairs + edit.target.pairs
        return Draft({"instruction": edit.instruction}, meta, edit.source, edit.target, pairs)


def corpus(examples: int = 500) -> list[str]:
    """Text to train a tokenizer on: the first examples of every task. It has some 90 words."""
    streams = [Shapes(task, long_prompts=0.1, places=0.1) for task in TASKS]
    sample = [stream[i] for stream in streams for i in range(examples)]
    return [text for example in sample for text in (example.condition, example.response) if text]
