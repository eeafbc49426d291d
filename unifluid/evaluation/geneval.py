"""GenEval: does a picture show the objects its prompt names? Pure functions over detections.

Ghosh, Hajishirzi and Schmidt, "GenEval: An Object-Focused Framework for Evaluating Text-to-Image Alignment", 2023.
Photographs and synthetic scenes are scored by the same code and differ only in `Detector` and `ColourClassifier`.

A prompt's metadata is a line of evaluation_metadata.jsonl: `tag`, `include` and, for counting, `exclude`. Both lists
hold clauses {"class": name, "count": n}, in `include` also "color": name and "position": [relation, earlier clause].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unifluid.evaluation.scores import Score
from unifluid.interfaces import ColourClassifier, Detection, Detector

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
THRESHOLD = 0.3  # a detection counts if its score is above this,
COUNTING_THRESHOLD = 0.9  # or, in the counting task, above this
MAX_PER_CLASS = 16
MARGIN = 0.1  # share of both boxes' sizes by which centres may differ without any relation
DIRECTION = 0.5  # least share of the centres' distance that makes a relation

Box = tuple[float, float, float, float]
Objects = Mapping[str, Sequence[Detection]]
Colours = Callable[[Sequence[Detection]], Sequence[str]]


def select(detections: Sequence[Detection], tag: str) -> Objects:
    """The detections that count in task `tag`, by class, most confident first."""
    threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
    objects = defaultdict(list)
    for detection in sorted(detections, key=lambda d: -d.score):
        if detection.score > threshold and len(objects[detection.name]) < MAX_PER_CLASS:
            objects[detection.name].append(detection)
    return objects


def relations(a: Box, b: Box) -> set[str]:
    """Where box a lies relative to box b, (x0, y0, x1, y1) with y downward: none, one, or two on a diagonal."""
    corners = np.array([a, b], float).reshape(2, 2, 2)  # box, corner, axis
    offset = np.subtract(*corners.mean(1))
    slack = MARGIN * np.abs(corners[:, 1] - corners[:, 0]).sum(0)
    clear = np.sign(offset) * np.maximum(np.abs(offset) - slack, 0)
    if np.all(np.abs(clear) < 1e-3):
        return set()
    dx, dy = clear / np.linalg.norm(offset)
    holds = {"left of": dx < -DIRECTION, "right of": dx > DIRECTION, "above": dy < -DIRECTION, "below": dy > DIRECTION}
    return {relation for relation, true in holds.items() if true}


def is_correct(metadata: Mapping[str, Any], objects: Objects, colours: Colours) -> bool:
    """Whether all `include` clauses hold and no `exclude` clause does.

    Colours and positions are asked of the `count` most confident objects of a class; a position holds where it does for
    each of them and each object of the clause it refers to.
    """
    matched: list[Sequence[Detection]] = []
    for clause in metadata["include"]:
        found = objects.get(clause["class"], ())[: clause["count"]]
        if len(found) < clause["count"]:
            return False
        if "color" in clause and list(colours(found)).count(clause["color"]) < clause["count"]:
            return False
        if "position" in clause:
            relation, target = clause["position"]
            if not all(relation in relations(a.box, b.box) for a in found for b in matched[target]):
                return False
        matched.append(found)
    return all(len(objects.get(clause["class"], ())) < clause["count"] for clause in metadata.get("exclude", ()))


def score_images(
    images: Sequence[Tensor],
    metadata: Sequence[Mapping[str, Any]],
    detector: Detector,
    classifier: ColourClassifier,
    device: torch.device,
) -> list[tuple[bool, Objects]]:
    """Whether each image (3, H, W) uint8 shows what its prompt's metadata asks for, and the detections that counted."""
    outcomes = []
    for image, asked, found in zip(images, metadata, detector.detect(images, device), strict=True):
        objects = select(found, asked["tag"])

        def colours(some: Sequence[Detection], image: Tensor = image) -> list[str]:
            return classifier.colours(image, list(some), device)

        outcomes.append((is_correct(asked, objects, colours), objects))
    return outcomes


def summary(outcomes: Mapping[str, Sequence[bool]]) -> dict[str, Score]:
    """Outcomes by tag -> a score for each, and their unweighted mean: `overall` where all six are there,
    `mean_of_tags` of fewer."""
    scores = {tag: Score.of(results) for tag, results in outcomes.items()}
    if set(TAGS) <= set(scores):
        scores["overall"] = Score.mean([scores[tag] for tag in TAGS])
    elif len(scores) > 1:
        scores["mean_of_tags"] = Score.mean(list(scores.values()))
    return scores
