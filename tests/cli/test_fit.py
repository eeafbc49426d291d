"""`fit`: what a run leaves behind, that it goes on where it was stopped, and what it says to mistakes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cli.runs import TINY, error_line, fit_arguments, same_training_state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks.last import LastCheckpoint
from unifluid.cli.main import main
from unifluid.storage import latest, previous


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert main(fit_arguments(folder)) == 0
    return folder


def losses(folder: Path) -> dict[int, float]:
    """Step → image loss, from all the logs of a run."""
    found: dict[int, float] = {}
    for file in sorted(folder.glob("events.*")):
        events = EventAccumulator(str(file))
        events.Reload()
        if "train/visual" in events.Tags()["scalars"]:
            for event in events.Scalars("train/visual"):
                assert found.setdefault(event.step, event.value) == event.value  # steps done twice came out alike
    return found


def apart(folder: Path, *options: str) -> dict[str, Any]:
    """`fit` in a process of its own, as arguments of `subprocess`."""
    threads = str(torch.get_num_threads())  # sums depend on it
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": threads}
    return {"args": [sys.executable, "-m", "unifluid", *fit_arguments(folder, *options)], "env": environment}


def test_a_run_is_a_folder(finished):
    names = {p.name for p in finished.iterdir()}
    assert {"config.yaml", "last.ckpt", "last.previous.ckpt"} <= names
    assert len(losses(finished)) == 6
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["init_args"]["backbone"]["init_args"]["width"] == 32


def test_finished_runs_return_at_once(finished):
    before, logs = (finished / "last.ckpt").stat().st_mtime_ns, list(finished.glob("events.*"))
    assert main(fit_arguments(finished)) == 0
    assert (finished / "last.ckpt").stat().st_mtime_ns == before
    assert list(finished.glob("events.*")) == logs


def test_its_own_config_repeats_a_run(finished, tmp_path):
    again = ["fit", "--config", str(finished / "config.yaml"), "--allow-module", "tiny"]
    assert main([*again, f"--trainer.default_root_dir={tmp_path}"]) == 0
    same_training_state(finished / "last.ckpt", tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    "wrong, near",
    [
        ("model.init_args.lamm=1", "lam"),
        ("model.init_args.backbone.init_args.widht=5", "width"),
        ("model.init_args.image_head=unifluid.heads.FlowMPL", "FlowMLP"),
        ("model=unifluid.UniFluit", "UniFluid"),
        ("data.init_args.stream=1", "streams"),
        ("model.init_args.xyz=1", None),
        # abbreviations
        ("trainer.max_step=5", "--trainer.max_steps"),
        ("trainer.max_step 5", "--trainer.max_steps"),
        ("seed 3", "--seed_everything"),
        ("allow-mod tiny", "--allow-module"),
        ("model.init_args.la=1", "lam"),
        ("model.init_args.backbone.init_args.wid=5", "width"),
        ("foo=1", None),
    ],
)
def test_the_nearest_name_is_offered(wrong, near, capsys):
    assert main(["fit", "--config", str(TINY), "--allow-module", "tiny", *f"--{wrong}".split()]) == 2
    line = capsys.readouterr().err.strip()
    assert line.endswith(f"; did you mean {near}?") if near else "did you mean" not in line


@pytest.mark.parametrize(
    "text, message",
    [
        ("trainer: {max_step: 5}", "no setting trainer.max_step; did you mean trainer.max_steps?"),
        ("seed: 3", "no setting seed; did you mean seed_everything?"),
        ("nothing: 3", "no setting nothing"),
    ],
)
def test_the_nearest_name_is_offered_for_a_file_too(text, message, tmp_path, capsys):
    (tmp_path / "wrong.yaml").write_text(text)
    assert error_line(capsys, *fit_arguments(tmp_path, "--config", str(tmp_path / "wrong.yaml"))) == message


@pytest.mark.parametrize(
    "flag, place",
    [
        ("model.init_args.text_head.init_args.softcap=null", ("model", "text_head", "softcap")),
        ('data.init_args.streams={"caption": {"rows": null, "weight": 2}}', ("data", "streams", "caption", "rows")),
    ],
)
def test_null_is_null_however_deep(flag, place, capsys):
    assert main(["fit", "--config", str(TINY), "--allow-module", "tiny", f"--{flag}", "--print_config"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    for name in place:
        found = found.get("init_args", found)[name]
    assert found is None


ADAMW = "{class_path: unifluid.optimization.AdamW, init_args: {lr: null}}"
SCENES = "{class_path: datamodules.shapes.Shapes, init_args: {task: caption, things: null}}"


@pytest.mark.parametrize(
    "text, name",
    [
        (f"model: {{init_args: {{optimization: {ADAMW}}}}}", "model.optimization.lr"),
        ("data: {init_args: {validation_batch: null}}", "data.validation_batch"),
        ("trainer: {accumulate_grad_batches: null}", "trainer.accumulate_grad_batches"),
        ("checkpoint: {every: null}", "checkpoint.every"),
        ("trainer: {callbacks: [{class_path: callbacks.EMA, init_args: {decay: null}}]}", "trainer.callbacks.0.decay"),
        (f"data: {{init_args: {{streams: {{a: {{rows: 1, dataset: {SCENES}}}}}}}}}", "data.streams.a.dataset.things"),
    ],
)
def test_null_in_a_file_is_refused_where_it_means_nothing(text, name, tmp_path, capsys):
    """By a flag it is for its type; jsonargparse takes it in a file for a setting that is left out."""
    (tmp_path / "nulls.yaml").write_text(text)
    line = error_line(capsys, *fit_arguments(tmp_path, "--config", str(tmp_path / "nulls.yaml")))
    assert line == f"{name} must not be null: leave it out for its default"


def test_print_config_prints_yaml(capsys):
    assert main(["fit", "--config", str(TINY), "--allow-module", "tiny", "--seed_everything=3", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed_everything"] == 3


def test_one_seed_decides_all(finished, tmp_path, capsys):
    config, logs = (finished / "config.yaml").read_bytes(), list(finished.glob("events.*"))
    assert "model.seed is 3 here but 0 in the checkpoint" in error_line(
        capsys, *fit_arguments(finished, "--seed_everything=3")
    )
    assert "seed_everything decides it" in error_line(capsys, *fit_arguments(tmp_path, "--model.init_args.seed=3"))
    assert "seed_everything decides it" in error_line(capsys, *fit_arguments(tmp_path, "--data.seed=3"))
    assert (finished / "config.yaml").read_bytes() == config  # a refused run changes nothing
    assert list(finished.glob("events.*")) == logs


def test_interrupted_by_hand_it_goes_on_to_the_same_end(finished, tmp_path):
    interrupted = fit_arguments(tmp_path, "--trainer.callbacks+=cli.runs.Interrupt", "--trainer.callbacks.step=5")
    assert main([*interrupted, "--allow-module", "cli"]) == 130
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5  # though every is 2
    assert main(fit_arguments(tmp_path)) == 0
    same_training_state(finished / "last.ckpt", tmp_path / "last.ckpt")
    assert losses(tmp_path) == losses(finished)


def test_killed_it_goes_on_to_the_same_end(tmp_path):
    """SIGKILL whenever it comes: between saves, or inside one."""
    options = ["--trainer.max_steps=40", "--checkpoint.every=2"]
    assert main(fit_arguments(tmp_path / "whole", *options)) == 0
    killed = tmp_path / "killed"
    process = subprocess.Popen(**apart(killed, *options))
    while process.poll() is None and not (killed / "last.previous.ckpt").exists():
        time.sleep(0.005)
    time.sleep(random.random() * 0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    saved = torch.load(latest(killed), weights_only=True)["global_step"]
    assert 0 < saved < 40
    assert main(fit_arguments(killed, *options)) == 0
    same_training_state(tmp_path / "whole" / "last.ckpt", killed / "last.ckpt")
    whole, resumed = losses(tmp_path / "whole"), losses(killed)
    resumed.setdefault(saved - 1, whole[saved - 1])  # killed in the moment between saving a step and logging it
    assert resumed == whole
    assert not list(killed.glob(".*partial"))


def test_told_to_end_it_saves_first(tmp_path):
    """SIGTERM to the whole group, as schedulers send it: loader workers must not die under the main process."""
    run = apart(tmp_path, "--trainer.max_steps=100000", "--checkpoint.every=20", "--data.init_args.workers=2")
    process = subprocess.Popen(**run, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not (tmp_path / "last.ckpt").exists():
        time.sleep(0.005)
    time.sleep(random.random() * 0.1)
    os.killpg(process.pid, signal.SIGTERM)
    assert "Traceback" not in process.communicate()[1]
    assert process.returncode == 143
    step = torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"]
    assert step == max(losses(tmp_path)) + 1


@pytest.mark.parametrize("batch", [3, 4])  # after a step, and between the two batches of one
def test_terminated_it_goes_on_to_the_same_end(tmp_path, batch):
    options = ["--trainer.accumulate_grad_batches=2", "--checkpoint.every=100"]
    assert main(fit_arguments(tmp_path / "whole", *options)) == 0
    ended = fit_arguments(tmp_path / "ended", *options, "--trainer.callbacks+=cli.runs.Terminate")
    assert main([*ended, f"--trainer.callbacks.batch={batch}", "--allow-module", "cli"]) == 143
    assert (tmp_path / "ended" / "last.ckpt").exists() == (batch == 3)
    assert main(fit_arguments(tmp_path / "ended", *options)) == 0
    same_training_state(tmp_path / "whole" / "last.ckpt", tmp_path / "ended" / "last.ckpt")


def test_workers_do_not_outlive_an_error(tmp_path):
    """Those of training, when validation fails."""
    flags = ["--data.init_args.workers=1", "--trainer.callbacks+=cli.runs.FailInValidation", "--allow-module", "cli"]
    run = apart(tmp_path, "--trainer.val_check_interval=2", *flags)
    ended = subprocess.run(**run, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "error: failed in validation" in ended.stderr


@pytest.mark.filterwarnings("ignore:.*last.ckpt. damaged")
def test_a_damaged_checkpoint_costs_one_interval(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    newest = run / "last.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert latest(run) == previous(newest)
    assert main(fit_arguments(run)) == 0
    same_training_state(finished / "last.ckpt", newest)


def test_starting_over(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    assert main(fit_arguments(run, "--resume=false", "--model.init_args.lam=9", "--trainer.max_steps=1")) == 0
    assert torch.load(run / "last.ckpt", weights_only=True)["config"]["init_args"]["lam"] == 9


def test_last_checkpoint_refuses_nonsense():
    with pytest.raises(ValueError, match=r"checkpoint\.every"):
        LastCheckpoint(every=0)


AUTOENCODER = "--model.init_args.image_tokenizer=unifluid.tokenizers.AutoencoderKL"
SIGLIP = "--model.init_args.image_encoder=unifluid.encoders.SigLIP"
SAMPLING = "--model.init_args.sampling"
SCENE = {"class_path": "datamodules.shapes.Shapes", "init_args": {"task": "generate"}}
GRID = f"--trainer.callbacks={json.dumps({'class_path': 'callbacks.SampleGrid', 'init_args': {'datasets': [SCENE]}})}"
TINY_VIT = '--model.init_args.image_encoder.options={"depth": 1, "embed_dim": 12, "num_heads": 1}'


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.init_args.image_head=FlowMPL"], "model.image_head: FlowMPL is neither a class path"),
        (["--model.init_args.backbone.class_path=unifluid.backbones.Decodr"], "has no attribute 'Decodr'"),
        (["--model.init_args.text_tokenizer=unifluid.backbones.Decoder"], "not correspond to a subclass of TextTok"),
        (["--model.init_args.text_tokenizer=os.system"], "os.system is not in a trusted package"),
        (["--model.init_args.lam=abc"], "model.lam: expected float, got abc"),
        (["--model.init_args.backbone.init_args.width=w"], "model.backbone.width: expected int, got w"),
        (["--model.init_args.backbone.init_args.heads=0"], "width, depth, heads and kv_heads must be at least 1"),
        (["--model.init_args.frozen=("], "model.frozen '(' is no regular expression"),
        (["--trainer.precision=bf16-true"], "trainer.precision bf16-true rounds updates away: give bf16-mixed"),
        (["--model.init_args.lamb=1"], "model: Option 'lamb' is not accepted"),
        (["--trainer.max_stepps=1"], "--trainer.max_stepps"),
        (["--data.init_args.streams.caption.dataset.init_args.task=foo"], "data.streams.dataset.task: expected"),
        (["--checkpoint.every=0"], "checkpoint.every must be at least 1"),
        (["--config=nowhere.yaml"], "nowhere.yaml"),
        (["--ckpt_path=nowhere.ckpt"], "nowhere.ckpt: no such checkpoint"),
        (["--model.init_args.init_from=nowhere.ckpt"], "nowhere.ckpt: no such checkpoint"),
        (
            [AUTOENCODER, "--model.init_args.image_tokenizer.weights=gone.safetensors"],
            "weights gone.safetensors does not exist",
        ),
        (
            [AUTOENCODER, f"--model.init_args.image_tokenizer.weights={Path(__file__).parent}"],
            "tests/cli holds no config.json",
        ),
        ([SIGLIP, TINY_VIT, "--model.init_args.image_encoder.weights=gone.bin"], "weights gone.bin does not exist"),
        (
            [SIGLIP, TINY_VIT, f"--model.init_args.image_encoder.weights={__file__}"],
            "test_fit.py: refused, not plain tensors",
        ),
        ([SIGLIP, "--model.init_args.image_encoder.model=resnet18"], "SigLIP: timm's resnet18 is a ResNet"),
        ([SIGLIP, "--model.init_args.image_encoder.activation=gelo"], "'act_layer': 'gelo'"),
        (["--trainer.accelerator=gpuu"], "gpuu"),
        (["--trainer.devices=7x"], "trainer: `devices` selected with `CPUAccelerator` should be an int"),
        (["--model.init_args.copies=0"], "copies, row_length, max_prefix and max_suffix must be at least 1"),
        (["--model.init_args.prompt_dropout=2"], "prompt_dropout and source_dropout are chances, got 2.0"),
        (["--model.init_args.order=abc"], "model.order: expected Literal['random', 'raster']; expected list"),
        (["--trainer.callbacks=callbacks.EMA", "--trainer.callbacks.decay=2"], "0 <= decay < 1"),
        ([f"{SAMPLING}={{guidanse: 3}}"], "model.sampling.guidanse: no such setting; did you mean guidance?"),
        ([f"{SAMPLING}={{steps: 0}}"], "model.sampling: steps must be a whole number of at least 1, got 0"),
        ([f"{SAMPLING}={{sampler: ancestral}}"], "model.sampling: sampler must be one of ode"),
        ([f"{SAMPLING}={{rounds: 2}}"], "model.sampling: rounds must be one of those trained, 9, got 2"),
        ([GRID, "--trainer.callbacks.sampling.rounds=2"], "callbacks.SampleGrid.sampling: rounds must be one of"),
    ],
)
def test_mistakes_end_in_one_line(flags, message, tmp_path, capsys):
    assert message in error_line(capsys, *fit_arguments(tmp_path, *flags))
    assert not (tmp_path / "config.yaml").exists()  # nothing has begun


def test_classes_of_strangers_are_refused_before_they_are_imported(tmp_path, monkeypatch, capsys):
    (tmp_path / "stranger.py").write_text("class Tokenizer: pass")
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--model.init_args.text_tokenizer=stranger.Tokenizer"]
    refused = error_line(capsys, *fit_arguments(tmp_path, *flags))
    assert "stranger.Tokenizer is not in a trusted package; if you trust it: --allow-module stranger" in refused
    assert "stranger" not in sys.modules
    trusted = error_line(capsys, *fit_arguments(tmp_path, *flags, "--allow-module", "stranger"))
    assert "not correspond to a subclass of TextTokenizer" in trusted


def test_broken_yaml_is_named(tmp_path, capsys):
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [1\ndata: {")
    assert f"{broken}: not valid YAML" in error_line(capsys, "fit", "--config", broken)
    broken.write_text("- 1")
    assert f"{broken}: no settings by name" in error_line(capsys, "fit", "--config", broken)
    broken.write_text("trainer: 3")
    assert f"{broken}: trainer holds settings by name, got 3" in error_line(capsys, "fit", "--config", broken)
    broken.write_text("checkpoint: 3")
    assert f"{broken}: checkpoint holds settings by name, got 3" in error_line(capsys, "fit", "--config", broken)
    assert "missing: --data, --model" in error_line(capsys, "fit")


def test_a_full_disk_is_named(tmp_path, capsys):
    (tmp_path / ".last.ckpt.partial").symlink_to("/dev/full")
    message = f"{tmp_path / 'last.ckpt'}: the checkpoint cannot be written: No space left on device"
    assert error_line(capsys, *fit_arguments(tmp_path)) == message
    assert not (tmp_path / "last.ckpt").exists()


def test_a_file_where_the_run_should_be_is_named(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "file" in error_line(capsys, *fit_arguments(tmp_path / "file"))


def figures(table: str) -> list[str]:
    return re.findall(r"\d+\.\d+", table)


def test_evaluation_takes_the_last_checkpoint_of_the_run(finished, tmp_path, capsys):
    logs = list(finished.glob("events.*"))
    assert main(["validate", *fit_arguments(finished)[1:]]) == 0
    validated = capsys.readouterr().out
    assert main(["test", *fit_arguments(finished)[1:]]) == 0
    assert figures(capsys.readouterr().out) == figures(validated) != []
    validate = ["validate", *fit_arguments(tmp_path)[1:]]
    assert main([*validate, f"--ckpt_path={finished / 'last.ckpt'}"]) == 0
    assert main([*validate, f"--ckpt_path={finished}"]) == 0
    assert main(["validate", *fit_arguments(finished)[1:], "--ckpt_path=last"]) == 0
    assert main(["validate", "--config", str(finished / "config.yaml"), "--allow-module", "tiny"]) == 0
    for command in ("validate", "test"):
        wrong = error_line(capsys, command, *fit_arguments(finished)[1:], f"{SAMPLING}={{guidanse: 3}}")
        assert "model.sampling.guidanse: no such setting" in wrong
    assert "nothing was measured, and no scores were taken" in error_line(
        capsys, "test", *fit_arguments(finished)[1:], "--data.init_args.validation={}"
    )
    assert "name its folder" in error_line(capsys, "test", "--ckpt_path=last", "--trainer.max_steps=1")
    for flags in ([], ["--ckpt_path=last"]):
        assert "holds no last.ckpt: train first" in error_line(capsys, *validate, *flags)
    assert list(finished.glob("events.*")) == logs and not list(tmp_path.glob("events.*"))
    assert "tiny.yaml: damaged or not a checkpoint" in error_line(capsys, *validate, f"--ckpt_path={TINY}")


def test_an_overlay_alone_is_told_where_it_goes(capsys):
    overlay = Path(__file__).parents[2] / "experiments/image_head/diffusion.yaml"
    assert "an overlay comes after its run" in error_line(capsys, "fit", "--config", overlay)
