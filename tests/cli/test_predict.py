"""`unifluid predict` writes what a model makes of the validation sets, and scores nothing."""

import json

import pytest
from cli.runs import error_line, fit_arguments
from PIL import Image

from callbacks.predictions import Predictions
from datamodules.shapes import Shapes
from unifluid.cli.main import main

TRUST = ["--allow-module", "tiny"]
FEW = ["--predictions.n=3", "--predictions.images.steps=2", "--predictions.images.batch_size=2"]
TASKS = ("caption", "answer", "generate", "edit")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    shapes = {"class_path": "datamodules.shapes.Shapes"}
    sets = {task: shapes | {"init_args": {"task": task, "split": "val"}} for task in TASKS}
    flag = f"--data.init_args.validation={json.dumps(sets)}"
    assert main(fit_arguments(folder, flag)) == 0
    return folder


def test_everything_is_answered_by_id(run):
    before = {path.name for path in run.iterdir()}
    assert main(["predict", str(run), *TRUST, *FEW]) == 0
    assert {path.name for path in run.iterdir()} == before | {"predictions", "results"}
    for task in TASKS:
        dataset, made = Shapes(task, split="val"), lines(run / "predictions" / f"{task}.jsonl")
        assert [line["id"] for line in made] == [dataset[i].id for i in range(3)]
        assert [line["asked"] for line in made] == [dataset[i].condition for i in range(3)]
        for line in made:
            assert isinstance(line["text"], str) if "text" in line else Image.open(run / "predictions" / line["file"])
        assert ("file" in made[0]) == (task in ("generate", "edit"))


def test_it_goes_on_where_it_was_interrupted(run, monkeypatch):
    first, judge, seen = lines(run / "predictions" / "generate.jsonl"), Predictions.judge, []

    def interrupted(self, module, items, indices, progress):
        seen.append((self.prefix, *indices))
        if seen[-1] == ("generate", 2):
            raise KeyboardInterrupt
        return judge(self, module, items, indices, progress)

    monkeypatch.setattr(Predictions, "judge", interrupted)
    only = [f"--data.init_args.validation={json.dumps({'generate': {'class_path': 'datamodules.shapes.Shapes'}})}"]
    main(["predict", str(run), *TRUST, *FEW, *only])
    monkeypatch.setattr(Predictions, "judge", lambda *args: seen.append("went on") or judge(*args))
    assert main(["predict", str(run), *TRUST, *FEW, *only]) == 0
    assert seen == [("generate", 0, 1), ("generate", 2), "went on"]
    assert lines(run / "predictions" / "generate.jsonl") == first


def test_without_data_there_is_nothing_to_answer(run, capsys):
    line = error_line(capsys, "predict", run, *TRUST, "--data.init_args.validation={}")
    assert "predict: data.init_args.validation names no data to answer" in line
