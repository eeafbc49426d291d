"""GenEval's prompts: as many of each kind as published, and called geneval for the official file alone."""

import hashlib
import json
from collections import Counter

import pytest

from datamodules import GenEvalPrompts, geneval_prompts
from unifluid.evaluation.geneval import TAGS


def test_made_prompts_follow_the_published_rules():
    prompts = GenEvalPrompts()
    assert len(prompts) == 553 and len({e.condition for e in prompts}) == 553
    counts = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94, "position": 100, "color_attr": 100}
    assert Counter(e.meta["tag"] for e in prompts) == counts and set(counts) == set(TAGS)
    for example in prompts:
        meta = example.meta
        assert example.condition.startswith("a photo of ")
        names = [clause["class"] for clause in meta["include"]]
        if meta["tag"] == "counting":
            (clause,), (more,) = meta["include"], meta["exclude"]
            assert clause["count"] in (2, 3, 4) and more == {"class": clause["class"], "count": clause["count"] + 1}
        elif meta["tag"] == "position":
            relation, target = meta["include"][1]["position"]
            first, second = example.condition.removeprefix("a photo of ").split(f" {relation} ")
            assert target == 0 and first.endswith(names[1]) and second.endswith(names[0])
        else:
            assert all(name in example.condition for name in names)
            assert all(c.get("color", "") in example.condition for c in meta["include"])
        if "color" in meta["include"][0]:
            assert "person" not in names
    assert prompts.score_name == "geneval_generated" and GenEvalPrompts(seed=1).sha256 != prompts.sha256
    assert GenEvalPrompts().sha256 == prompts.sha256


def test_the_hash_decides_what_scores_are_called(tmp_path, monkeypatch):
    line = {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    path = str(tmp_path / "metadata.jsonl")
    assert GenEvalPrompts(path).score_name == "geneval_generated" and GenEvalPrompts(path)[0].meta == line
    sha256 = hashlib.sha256((tmp_path / "metadata.jsonl").read_bytes()).hexdigest()
    monkeypatch.setattr(geneval_prompts, "OFFICIAL_SHA256", sha256)
    assert GenEvalPrompts(path).score_name == "geneval"


CAT = {"class": "cat", "count": 1}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tag": "colours"}, "tag must be one of single_object"),
        ({"include": []}, "include is empty"),
        ({"include": [CAT | {"count": 0}]}, "a count of at least 1"),
        ({"include": [CAT], "exclude": [CAT | {"count": True}]}, "a count of at least 1"),
        ({"include": [CAT | {"color": "rde"}]}, "color 'rde' is none of red"),
        ({"include": [CAT, CAT | {"position": ["left_of", 0]}]}, "is none of left of"),
        ({"include": [CAT, CAT | {"position": ["above", 1]}]}, "an earlier clause"),
        ({"include": [CAT, CAT | {"position": "above"}]}, "not GenEval's metadata"),
    ],
)
def test_what_would_be_scored_all_the_same_is_refused(change, complaint):
    metadata = {"tag": "position", "include": [CAT], "prompt": "a cat"}
    assert geneval_prompts.checked(json.dumps(metadata).encode(), "m:1") == metadata
    with pytest.raises(ValueError, match=complaint):
        geneval_prompts.checked(json.dumps(metadata | change).encode(), "m:1")


@pytest.mark.parametrize("line", ["{", '{"tag": "colors"}', '{"tag": "a", "include": [{"class": 1}], "prompt": "b"}'])
def test_another_file_is_named(line, tmp_path):
    (tmp_path / "m.jsonl").write_text(line)
    with pytest.raises(ValueError, match=r"m.jsonl:1: not GenEval's metadata"):
        GenEvalPrompts(str(tmp_path / "m.jsonl"))
    with pytest.raises(ValueError, match="no such file of GenEval's metadata"):
        GenEvalPrompts(str(tmp_path / "none.jsonl"))
