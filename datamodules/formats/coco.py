"""MS-COCO as it is distributed: captions to learn, and captions as prompts to draw from.

Annotations are the official captions_train2014.json (val2014, train2017, …) or Karpathy's dataset_coco.json, whose
splits – train, val and test of 5,000 each, restval – most papers on captions use.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datamodules.formats.files import Annotations, read_json
from unifluid.randomness import derive
from unifluid.sequence import Task


class Picture(NamedTuple):
    """One picture of COCO: its id, file (relative to the folder of pictures) and the texts of all its captions."""

    id: int
    file: str
    captions: list[Any]


class CocoCaptions(Annotations):
    """Pictures to describe: an example for each caption in training, for each picture in an evaluation.

    Args:
        annotations: the official captions_*.json, or Karpathy's dataset_coco.json.
        images: the folder of pictures: train2014 for official files, the one that holds it for Karpathy's.
        split: which part of Karpathy's file, or several: train+restval. Official files have none.
        per: caption, or picture: then its first caption is the example's, and all of them are `meta["captions"]`.
        prompt: what a caption is asked for with.
        max_skipped, strict: see `Skipping`.
    """

    task: Task = "caption"

    def __init__(
        self,
        annotations: str,
        images: str,
        split: str | None = None,
        per: Literal["caption", "picture"] = "caption",
        prompt: str = "caption en",
        max_skipped: float = 0.01,
        strict: bool = False,
    ):
        super().__init__(annotations, images, "caption", max_skipped, strict)
        pictures = read_coco(annotations, split)
        self.keep(_rows_of_pictures(pictures, prompt) if per == "picture" else _rows_of_captions(pictures, prompt))


class CocoPictures(Annotations):
    """Pictures to draw, an example for each: its prompt is one of its captions, chosen by (seed, picture).

    Args:
        annotations, images, split: see `CocoCaptions`.
        seed: of the choice of captions and of the sample.
        sample: only so many pictures, drawn without replacement: 30,000 for FID as the field reports it.
        max_skipped, strict: see `Skipping`.
    """

    task: Task = "generate"

    def __init__(
        self,
        annotations: str,
        images: str,
        split: str | None = None,
        seed: int = 0,
        sample: int | None = None,
        max_skipped: float = 0.01,
        strict: bool = False,
    ):
        super().__init__(annotations, images, "generate", max_skipped, strict)
        pictures = read_coco(annotations, split)
        if sample is not None:
            if not 0 < sample <= len(pictures):
                raise ValueError(f"sample must be 1 to {len(pictures)}, the pictures of {annotations}; got {sample}")
            pictures = sorted(pictures, key=lambda p: derive(seed, "coco sample", p.id))[:sample]
        self.keep(_row_to_draw(picture, seed) for picture in pictures)


def _rows_of_captions(pictures: list[Picture], prompt: str) -> Iterator[dict[str, Any]]:
    for picture in pictures:
        for number, caption in enumerate(picture.captions):
            row = {"id": f"{picture.id}-{number}", "image": picture.file, "prompt": prompt, "caption": caption}
            yield {**row, "meta": {"image_id": picture.id}}


def _rows_of_pictures(pictures: list[Picture], prompt: str) -> Iterator[dict[str, Any]]:
    for picture in pictures:
        first = picture.captions[0] if picture.captions else None
        row = {"id": f"{picture.id}", "image": picture.file, "prompt": prompt, "caption": first}
        yield {**row, "meta": {"image_id": picture.id, "captions": picture.captions}}


def _row_to_draw(picture: Picture, seed: int) -> dict[str, Any]:
    choice = derive(seed, "coco caption", picture.id) % max(len(picture.captions), 1)
    prompt = picture.captions[choice] if picture.captions else None
    return {"id": f"{picture.id}", "target": picture.file, "prompt": prompt, "meta": {"image_id": picture.id}}


def read_coco(path: str | Path, split: str | None) -> list[Picture]:
    """The pictures in a file of captions, in its order. Raises ValueError naming the file."""
    content = read_json(path)
    karpathy = "annotations" not in content
    try:
        return _karpathy(content, path, split) if karpathy else _official(content, path, split)
    except (KeyError, TypeError, AttributeError) as error:
        expected = "images with sentences" if karpathy else "images and annotations"
        raise ValueError(f"{path}: not COCO's captions, expected {expected} ({error!r})") from error


def _official(content: dict[str, Any], path: str | Path, split: str | None) -> list[Picture]:
    if split is not None:
        raise ValueError(f"{path} is an official file, which is one split: leave split={split} out")
    pictures = {image["id"]: Picture(image["id"], image["file_name"], []) for image in content["images"]}
    for annotation in content["annotations"]:
        pictures[annotation["image_id"]].captions.append(annotation.get("caption"))
    return list(pictures.values())


def _karpathy(content: dict[str, Any], path: str | Path, split: str | None) -> list[Picture]:
    there = sorted({image["split"] for image in content["images"]})
    wanted = (split or "").split("+")
    if not set(wanted) <= set(there):
        raise ValueError(f"{path} has the splits {', '.join(there)}: name one, or several with +; got {split!r}")
    return [
        Picture(image["cocoid"], f"{image['filepath']}/{image['filename']}", [s.get("raw") for s in image["sentences"]])
        for image in content["images"]
        if image["split"] in wanted
    ]
