"""A run's folder stands for its settings; an evaluation takes the model from a checkpoint where none is named."""

import json
import re
from pathlib import Path

import pytest
import yaml
from cli.runs import TINY, error_line, fit_arguments

from unifluid.cli.main import main

TRUST = ["--allow-module", "tiny"]
SCORE = """
trainer:
  accelerator: cpu
  default_root_dir: {folder}
  enable_progress_bar: false
  limit_test_batches: 1
  callbacks:
    - class_path: callbacks.QuestionAccuracy
      init_args: {{n: 4, dataset: &answers {{class_path: datamodules.shapes.Shapes, init_args: {{task: answer}}}}}}
model: {{init_args: {{lam: 0.7, max_prefix: 9, optimization: {{class_path: unifluid.optimization.Muon}}}}}}
data:
  class_path: datamodules.Mixture
  init_args:
    streams: {{answer: {{rows: 2, dataset: *answers}}}}
    validation: {{answer: *answers}}
    validation_examples: 4
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with a flag of its own and a score."""
    folder = tmp_path_factory.mktemp("run")
    callback = {"class_path": "callbacks.QuestionAccuracy", "init_args": {"n": 4, "dataset": shapes()}}
    (folder / "score.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback], "limit_test_batches": 1}}))
    assert main(fit_arguments(folder, "--config", f"{folder}/score.yaml", "--model.init_args.lam=0.3")) == 0
    return folder


def shapes():
    return {"class_path": "datamodules.shapes.Shapes", "init_args": {"task": "answer"}}


def _untimed(scores):
    return {name: value for name, value in scores.items() if not name.startswith("seconds/")}


def test_a_folder_stands_for_its_settings(run, capsys):
    before = json.loads((run / "scores.json").read_text())
    assert main(["test", str(run), *TRUST]) == 0
    again = json.loads((run / "scores.json").read_text())
    assert _untimed(again) == _untimed(before)
    assert main(["fit", str(run), *TRUST, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out.partition("trainer:")[2].join(["trainer:", ""]))
    assert config["trainer"]["default_root_dir"] == str(run) and config["model"]["init_args"]["lam"] == 0.3


def test_tensorboard_has_the_settings(run):
    assert yaml.safe_load((run / "hparams.yaml").read_text())["model"]["init_args"]["lam"] == 0.3


def test_the_folder_holds_its_settings_whatever_logs(tmp_path):
    logger = '--trainer.logger={"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "%s"}}'
    assert main(fit_arguments(tmp_path, logger % tmp_path, "--model.init_args.lam=0.25")) == 0
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["init_args"]["lam"] == 0.25
    (logged,) = tmp_path.glob("lightning_logs/*/hparams.yaml")
    assert yaml.safe_load(logged.read_text())["model"]["init_args"]["lam"] == 0.25


def test_a_checkpoint_brings_its_model(run, tmp_path):
    (tmp_path / "other.yaml").write_text(SCORE.format(folder=tmp_path))
    arguments = ["--config", f"{tmp_path}/other.yaml", "--ckpt_path", f"{run}/last.ckpt", *TRUST]
    assert main(["test", *arguments]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["n/qa/accuracy"] == 4 and scores["step/qa"] == 6


def test_what_the_weights_belong_to_is_compared(run, capsys):
    wide = ["--model.init_args.backbone.init_args.width=64"]
    line = error_line(capsys, "test", run, *TRUST, *wide)
    assert "model.backbone.width is 64 here but 32 in the checkpoint: give that value, or a config without" in line
    assert main(["test", str(run), *TRUST, "--model.init_args.lam=0.9", "--model.init_args.copies=3"]) == 0
    again = ["fit", run, *TRUST, "--model.init_args.lam=0.9", "--trainer.max_steps=9"]
    assert "model.lam is 0.9 here but 0.3" in error_line(capsys, *again)


def test_an_exported_model_is_evaluated_like_its_checkpoint(tmp_path, capsys):
    run, ema = tmp_path / "run", ["--trainer.callbacks=callbacks.EMA"]
    assert main(fit_arguments(run, *ema, "--trainer.callbacks.decay=0.5")) == 0
    found = {}
    for weights, callbacks in (("ema", ema), ("raw", [])):
        assert main(["export", "--ckpt", str(run), "--out", str(tmp_path / weights), "--weights", weights]) == 0
        for path in (run / "last.ckpt", tmp_path / weights):
            capsys.readouterr()
            assert main(["validate", *fit_arguments(tmp_path)[1:], *callbacks, f"--ckpt_path={path}"]) == 0
            found[path] = re.findall(r"\d+\.\d{6,}", capsys.readouterr().out)
        assert found[path] == found[run / "last.ckpt"] != []
    assert found[tmp_path / "ema"] != found[tmp_path / "raw"]
    for folder in (tmp_path, tmp_path / "EMA"):  # whatever is called so
        (tmp_path / "other.yaml").write_text(SCORE.format(folder=folder))
        assert main(["test", "--config", f"{tmp_path}/other.yaml", "--ckpt_path", f"{tmp_path}/ema", *TRUST]) == 0
        assert json.loads((folder / "scores.json").read_text())["weights/qa"] == "ema"
    one = ["--trainer.callbacks=callbacks.TrainSeconds"]
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": yaml.safe_load(SCORE.format(folder=tmp_path))["data"]}))
    assert main(["validate", f"--config={tmp_path}/data.yaml", f"--ckpt_path={tmp_path}/ema", *one, *TRUST]) == 0
    line = error_line(capsys, *fit_arguments(tmp_path / "new", f"--ckpt_path={tmp_path / 'ema'}"))
    assert line.endswith(f"start from its weights with --model.init_args.init_from {tmp_path / 'ema'}")
    assert f"or --ckpt_path {tmp_path / 'ema'} and data" in error_line(capsys, "test", tmp_path / "ema")


def test_flags_of_fit_alone_are_refused(run, capsys):
    for flag in ("--resume=false", "--checkpoint.every=3"):
        line = error_line(capsys, "test", run, *TRUST, flag)
        assert "is for fit, test does not use it: leave it out" in line


def test_mistakes(run, tmp_path, capsys):
    assert error_line(capsys, "test", tmp_path).startswith(f"{tmp_path}: no run, it holds no config.yaml: give")
    (tmp_path / "other.yaml").write_text(SCORE.format(folder=tmp_path))
    alone = ["test", "--config", tmp_path / "other.yaml", *TRUST]
    assert error_line(capsys, *alone).startswith("test: no model is named: give --ckpt_path")
    assert "no such checkpoint" in error_line(capsys, *alone, "--ckpt_path", tmp_path / "none.ckpt").lower()
    assert "damaged or not a checkpoint" in error_line(capsys, *alone, "--ckpt_path", TINY)
