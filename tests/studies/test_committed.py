"""The committed results are those of the committed studies, and experiments/README.md says what they say."""

import json
import re
from pathlib import Path

import pytest

from unifluid.studies.study import read_study

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
README = (EXPERIMENTS / "README.md").read_text(encoding="utf-8")
RESULTS = sorted(EXPERIMENTS.glob("results/*/results.json"))
STUDIES = ("unified", "lambda", "order", "language_model", "head", "editing", "aesthetic", "sampling")


def test_all_eight_studies_have_results():
    assert {path.parent.name for path in RESULTS} >= set(STUDIES)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_results_are_whole(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    study = read_study(EXPERIMENTS / f"studies/{path.parent.name}.yaml")
    assert {"README.md", "figure.svg"} <= {file.name for file in path.parent.iterdir()}
    assert found["claim"] == study.claim and list(found["arms"]) == list(study.arms)
    assert [finding["expected"] for finding in found["findings"]] == [str(e) for e in study.expect]
    assert not found["failed"] and not found["missing"] and found["hardware"]
    assert found["commits"] or all(score.startswith("val/") for score in study.scores)  # losses are logged without one
    for scores in found["arms"].values():
        assert all(set(score["seeds"]) == {str(seed) for seed in study.seeds} for score in scores.values())


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_the_table_says_what_is_seen(path):
    row = re.search(rf"^\|.*\(results/{path.parent.name}/README\.md\).*\|$", README, re.MULTILINE)
    verdict = json.loads(path.read_text(encoding="utf-8"))["verdict"]
    assert row and row[0].rstrip("| ").endswith(f"**{verdict}**")
