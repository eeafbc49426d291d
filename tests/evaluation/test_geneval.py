"""GenEval's scoring on detection sets worked out by hand, with the border cases of every threshold."""

import itertools

import pytest
import torch

from unifluid.evaluation import geneval
from unifluid.evaluation.geneval import TAGS, is_correct, relations, score_images, select, summary
from unifluid.evaluation.scores import Score
from unifluid.interfaces import ColourClassifier, Detection, Detector

SQUARE = (0.0, 0.0, 10.0, 10.0)


def found(name, score=0.95, colour="red", box=SQUARE):
    return Detection(name, score, None, box, {"colour": colour})


def judge(tag, include, detections, exclude=()):
    metadata = {"tag": tag, "include": include, "exclude": list(exclude)}
    return is_correct(metadata, select(detections, tag), lambda group: [d.attributes["colour"] for d in group])


def threshold_cases():
    """At a threshold a detection does not count, just above it does: .3, and .9 for counting."""
    for tag, name in itertools.product(TAGS, ("cat", "dog", "bench")):
        limit = 0.9 if tag == "counting" else 0.3
        for score, counts in ((limit - 1e-6, False), (limit, False), (limit + 1e-6, True), (0.0, False), (1.0, True)):
            include = [{"class": name, "count": 1}]
            yield counts, (tag, include, [found(name, score)])
            yield counts, (tag, include, [found("person", 1.0), found(name, score)])
            yield not counts, (tag, [], [found(name, score)], [{"class": name, "count": 1}])


def counting_cases():
    """Exactly n, of those surer than .9; other classes do not matter."""
    for n, sure, unsure, others in itertools.product((2, 3, 4), range(7), (0, 1, 3), (0, 2)):
        detections = [found("cup")] * sure + [found("cup", 0.85)] * unsure + [found("fork")] * others
        include, exclude = [{"class": "cup", "count": n}], [{"class": "cup", "count": n + 1}]
        yield sure == n, ("counting", include, detections, exclude)
    for there, exact in ((15, False), (16, True), (17, True), (40, True)):  # no more than 16 of a class are ever seen
        yield (
            exact,
            ("counting", [{"class": "cup", "count": 16}], [found("cup")] * there, [{"class": "cup", "count": 17}]),
        )
        yield False, ("counting", [{"class": "cup", "count": 17}], [found("cup")] * there)


def object_cases():
    """Every class of a prompt must be there; more of it does no harm."""
    for cats, dogs, birds in itertools.product(range(3), repeat=3):
        detections = [found("cat", 0.5)] * cats + [found("dog", 0.4)] * dogs + [found("bird")] * birds
        yield cats >= 1, ("single_object", [{"class": "cat", "count": 1}], detections)
        both = [{"class": "cat", "count": 1}, {"class": "dog", "count": 1}]
        yield cats >= 1 and dogs >= 1, ("two_object", both, detections)


def colour_cases():
    """Only the `count` surest objects are asked for their colour."""
    palette = ("red", "blue", "green")
    for first, second in itertools.product(palette, repeat=2):
        for order in (1, -1):
            detections = [found("car", 0.9, first), found("car", 0.6, second)][::order]
            yield first == "red", ("colors", [{"class": "car", "count": 1, "color": "red"}], detections)
            two = [{"class": "car", "count": 2, "color": "red"}]
            yield first == second == "red", ("colors", two, detections)
        attributes = [{"class": "car", "count": 1, "color": "red"}, {"class": "cow", "count": 1, "color": "blue"}]
        right = first == "red" and second == "blue"
        yield right, ("color_attr", attributes, [found("cow", 0.5, second), found("car", 0.4, first)])
        yield False, ("color_attr", attributes, [found("car", 0.4, first)])
        yield False, ("color_attr", attributes, [found("cow", 0.4, second), found("car", 0.3, first)])
    surest = [found("car", 0.5 + i / 100, "red" if i >= 4 else "blue") for i in range(20)]  # 16 red ones are surer
    yield True, ("colors", [{"class": "car", "count": 16, "color": "red"}], surest)


# Two boxes of 10 × 10: each axis' slack is .1 · (10 + 10) = 2. (|dx|, |dy|) -> axes along which a relation holds.
OFFSETS = {
    (0, 0): "",
    (2, 0): "",  # all within the slack
    (2, 2): "",
    (2.0005, 0): "",  # .0005 beyond it: below 1e-3
    (3, 0): "",  # (3 − 2) / 3 = .33
    (3.9, 0): "",  # 1.9 / 3.9 = .487
    (4, 0): "",  # 2 / 4 = .5, and more than that is asked
    (4.1, 0): "x",  # 2.1 / 4.1 = .512
    (30, 0): "x",
    (20, 1): "x",  # dy within its slack
    (20, 10): "x",  # 18 / 22.4 = .805; 8 / 22.4 = .358
    (20, 14): "x",  # 18 / 24.4 = .737; 12 / 24.4 = .492
    (20, 15): "xy",  # 18 / 25 = .72; 13 / 25 = .52
    (20, 20): "xy",  # 18 / 28.3 = .636
    (5, 5): "",  # 3 / 7.07 = .424
    (6, 6): "",  # 4 / 8.49 = .471
    (7, 7): "xy",  # 5 / 9.90 = .505
    (8, 5): "x",  # 6 / 9.43 = .636; 3 / 9.43 = .318
}
MIRRORED = {"left of": "above", "right of": "below", "above": "left of", "below": "right of"}  # x and y swapped


def position_cases():
    """(box a, box b, relations): every row of the table, in every direction and at two scales; then points."""
    for ((dx, dy), axes), sx, sy, scale, swap in itertools.product(OFFSETS.items(), (1, -1), (1, -1), (1, 4), (0, 1)):
        names = {"x": "right of" if sx > 0 else "left of", "y": "below" if sy > 0 else "above"}
        expected, x, y = {names[axis] for axis in axes}, scale * sx * dx, scale * sy * dy
        if swap:
            expected, x, y = {MIRRORED[name] for name in expected}, y, x
        yield (x, y, x + 10 * scale, y + 10 * scale), (0, 0, 10 * scale, 10 * scale), expected
    yield (0.0009, 0, 0.0009, 0), (0, 0, 0, 0), set()  # nothing beyond 1e-3
    yield (0.0011, 0, 0.0011, 0), (0, 0, 0, 0), {"right of"}
    yield (6, 0, 8, 2), (0, 0, 10, 2), set()  # centres 7 and 5: slack 1.2, .8 / 2 = .4
    yield (9, 0, 11, 2), (0, 0, 10, 2), {"right of"}  # centres 10 and 5: 3.8 / 5 = .76


def judged_position_cases():
    """The same through the clauses; and what a clause about a missing or second object does."""
    for a, b, expected in position_cases():
        detections = [found("dog", 0.9, box=b), found("cat", 0.8, box=a)]
        for relation in MIRRORED:
            include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": [relation, 0]}]
            yield relation in expected, ("position", include, detections)
    include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}]
    dog, left, right = found("dog", box=(50, 0, 60, 10)), (0, 0, 10, 10), (90, 0, 100, 10)
    yield False, ("position", include, [found("cat", box=left)])
    yield False, ("position", include, [dog])
    yield True, ("position", include, [dog, found("cat", 0.9, box=left), found("cat", 0.8, box=right)])  # the surest
    yield False, ("position", include, [dog, found("cat", 0.8, box=left), found("cat", 0.9, box=right)])
    both = [include[0], include[1] | {"count": 2}]  # each of two
    yield False, ("position", both, [dog, found("cat", box=left), found("cat", box=right)])
    yield True, ("position", both, [dog, found("cat", box=left), found("cat", box=(0, 20, 10, 30))])
    coloured = [include[0], include[1] | {"color": "red"}]
    yield True, ("position", coloured, [dog, found("cat", colour="red", box=left)])
    yield False, ("position", coloured, [dog, found("cat", colour="blue", box=left)])


def all_cases():
    makers = (threshold_cases, counting_cases, object_cases, colour_cases, judged_position_cases)
    return [case for maker in makers for case in maker()]


def wrong_cases():
    return [(expected, case) for expected, case in all_cases() if judge(*case) is not expected]


def test_hand_derived_outcomes():
    cases = all_cases()
    assert len(cases) >= 500
    assert 0.1 < sum(expected for expected, _ in cases) / len(cases) < 0.9
    assert wrong_cases() == []


def test_relations():
    cases = list(position_cases())
    assert [(a, b) for a, b, expected in cases if relations(a, b) != expected] == []


@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("THRESHOLD", 0.3 + 2e-6),
        ("THRESHOLD", 0.3 - 2e-6),
        ("COUNTING_THRESHOLD", 0.9 + 2e-6),
        ("COUNTING_THRESHOLD", 0.9 - 2e-6),
        ("MAX_PER_CLASS", 15),
        ("MAX_PER_CLASS", 17),
        ("MARGIN", 0.09),
        ("MARGIN", 0.11),
        ("DIRECTION", 0.48),
        ("DIRECTION", 0.52),
    ],
)
def test_the_cases_notice_any_change_of_a_constant(monkeypatch, constant, value):
    monkeypatch.setattr(geneval, constant, value)
    assert wrong_cases()


class Painted(Detector, ColourClassifier):
    """Finds one object a channel, as sure as the channel's first pixel / 100, coloured by its second."""

    def detect(self, images, device):
        return [[found(f"object{c}", image[c, 0, 0].item() / 100) for c in range(3)] for image in images]

    def colours(self, image, detections, device):
        return ["red" if image[int(d.name[-1]), 0, 1] else "blue" for d in detections]


def test_an_image_is_scored_by_its_detector_and_classifier():
    image = torch.tensor([[[95, 1]], [[50, 0]], [[20, 1]]], dtype=torch.uint8)
    red = [{"class": "object0", "count": 1, "color": "red"}]

    def score_image(image, metadata, detector, classifier):
        return score_images([image], [metadata], detector, classifier, torch.device("cpu"))[0][0]

    assert score_image(image, {"tag": "colors", "include": red}, Painted(), Painted())
    blue = [{"class": "object1", "count": 1, "color": "blue"}]
    assert score_image(image, {"tag": "color_attr", "include": red + blue}, Painted(), Painted())
    assert not score_image(image, {"tag": "counting", "include": blue}, Painted(), Painted())
    assert not score_image(
        image, {"tag": "colors", "include": [{"class": "object2", "count": 1}]}, Painted(), Painted()
    )


def test_overall_is_the_unweighted_mean_of_the_six_tags():
    outcomes = {tag: [True] * i + [False] * (10 * (i + 1) - i) for i, tag in enumerate(TAGS)}
    scores = summary(outcomes)
    shares = [i / (10 * (i + 1)) for i in range(6)]
    assert [scores[tag].value for tag in TAGS] == pytest.approx(shares)
    assert scores["overall"].value == pytest.approx(sum(shares) / 6)
    assert scores["overall"].n == sum(len(results) for results in outcomes.values())
    two = summary({"colors": [True], "color_attr": [False, False]})
    assert set(two) == {"colors", "color_attr", "mean_of_tags"} and two["mean_of_tags"].value == 0.5
    assert set(summary({"colors": [True]})) == {"colors"}
    assert scores["colors"] == Score.of(outcomes["colors"])
