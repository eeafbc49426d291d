"""From concepts and styles to rows of the four tasks, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datamodules.emoji.sources import STYLES, Concept
from unifluid.randomness import derive

Row = dict[str, Any]


def held_out(concept: Concept) -> tuple[str, str] | None:
    """The split and the style in which `concept` is only met there, if any.

    One of ten places is drawn by hash. The first four are the styles, held out for the test; the fifth is held out for
    tuning ("val"), in a style drawn likewise. So a (concept, style) pair is in the test with probability 1/10 and in
    val with 1/40, and never two of a concept, which is thus always seen in its other styles.
    """
    place = derive(0, "held out", concept.code) % 10
    if place < len(STYLES):
        return "test", STYLES[place]
    return ("val", STYLES[derive(0, "style held out", concept.code) % len(STYLES)]) if place == len(STYLES) else None


def picture(concept: Concept, style: str) -> str:
    """Where a picture lies in the folder."""
    return f"images/{style}/{concept.code}.png"


def make_rows(
    concepts: Sequence[Concept], styles: Sequence[str], extra: Mapping[str, Sequence[Concept]]
) -> dict[str, list[Row]]:
    """Rows of train, val, test and extra: what the `extra` styles draw of which concepts, and redrawing it in `styles`.

    A held-out picture occurs in no row of train and extra; it is what every row of its split is about. Those rows are
    shuffled, always alike: the first hundred are a fair sample, not a hundred faces.
    """
    splits: dict[str, list[Row]] = {"train": [], "val": [], "test": [], "extra": []}
    hidden = {concept.code: held_out(concept) or ("train", None) for concept in concepts}
    for concept in concepts:
        split, apart = hidden[concept.code]
        for style in styles:
            rows = splits[split if style == apart else "train"]
            rows += _about(concept, style, concepts)
            rows += (_edit(concept, source, style) for source in styles if source not in (style, apart))
    for style, drawn in extra.items():
        for concept in drawn:
            splits["extra"] += _about(concept, style, concepts)
            splits["extra"] += (_edit(concept, style, to) for to in styles if to != hidden[concept.code][1])
    for split in ("val", "test"):
        splits[split].sort(key=lambda row: derive(0, "place", row["id"]))
    return splits


def _about(concept: Concept, style: str, concepts: Sequence[Concept]) -> list[Row]:
    """The rows of one picture: a caption, a prompt and four questions."""
    return [_caption(concept, style), _generate(concept, style), *_answers(concept, style, concepts)]


def _row(task: str, concept: Concept, style: str, key: str, **fields: Any) -> Row:
    meta = {"concept": concept.name, "style": style, "group": concept.group}
    return {"id": f"{task}-{concept.code}-{key}", "task": task, **fields, "meta": meta}


def _caption(concept: Concept, style: str) -> Row:
    caption = f"{concept.name}, in the {style} style"
    return _row("caption", concept, style, style, image=picture(concept, style), prompt="caption en", caption=caption)


def _generate(concept: Concept, style: str) -> Row:
    prompt = f"{concept.name} in the {style} style"
    return _row("generate", concept, style, style, target=picture(concept, style), prompt=prompt)


def _edit(concept: Concept, source: str, style: str) -> Row:
    images = {"image": picture(concept, source), "target": picture(concept, style)}
    return _row("edit", concept, style, f"{source}-{style}", **images, instruction=f"redraw in the {style} style")


def _answers(concept: Concept, style: str, concepts: Sequence[Concept]) -> Iterator[Row]:
    tag, fits = _tag(concept, style, concepts)
    asked = {
        "style": ("which style is it drawn in?", style),
        "group": ("which group does it belong to?", concept.group),
        "name": ("what is it?", concept.name),
        "tag": (f"does the word {tag} fit it?", fits),
    }
    for kind, (question, answer) in asked.items():
        row = _row("answer", concept, style, f"{style}-{kind}", image=picture(concept, style), question=question)
        yield {**row, "answers": [answer], "meta": {**row["meta"], "kind": kind}}


def _tag(concept: Concept, style: str, concepts: Sequence[Concept]) -> tuple[str, str]:
    """A tag and whether it fits: half the time one of its own, else another concept's: the word alone tells nothing."""
    if derive(0, "tag fits", concept.code, style) % 2:
        for attempt in range(100):  # nearly always the first does
            draw = derive(0, "other", concept.code, style, attempt)
            tags = concepts[draw % len(concepts)].tags
            tag = tags[draw // len(concepts) % len(tags)]
            if tag not in concept.tags:
                return tag, "no"
    return concept.tags[derive(0, "tag", concept.code, style) % len(concept.tags)], "yes"
