"""The dispatcher: quick, free of torch, with clear exits."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli.runs import error_line
from lightning.pytorch.utilities.exceptions import SIGTERMException

import unifluid
from unifluid.cli import data, score
from unifluid.cli import main as dispatcher
from unifluid.cli.errors import condense
from unifluid.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
LARGE = {"timm", "transformers", "diffusers", "peft", "torchmetrics", "matplotlib", "scipy", "datasets", "tensorboard"}


def test_help_names_every_command(capsys):
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"unifluid {unifluid.__version__}\n"


def test_help_costs_less_than_half_a_second_and_no_torch():
    code = (
        "import sys, unifluid.cli.main as m; m.main(['--help']); m.main(['fit', '--help']);"
        "import unifluid.cli.sample, unifluid.cli.export, unifluid.cli.data, unifluid.cli.reconstruct;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.slow
def test_settings_are_read_without_large_libraries():
    """Beyond what Lightning imports by itself, which is what its time is made of."""
    code = (
        "import sys, lightning; before = set(sys.modules); import unifluid.cli.main as m;"
        "code = m.main(['fit', '--config', 'experiments/demo.yaml', '--print_config']);"
        f"added = {{name.split('.')[0] for name in set(sys.modules) - before}} & {LARGE};"
        "sys.exit(f'imported: {added}' if added else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert "class_path: unifluid.encoders.Patches" in done.stdout


PARTS = [f"data {name}" for name in data.KINDS] + [f"score {name}" for name in score.KINDS]


@pytest.mark.parametrize("command", [*COMMANDS, *PARTS])
def test_every_command_has_help(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: unifluid {command} ")
    assert "(default: None)" not in shown and "(default: [])" not in shown


def test_what_was_not_meant_is_left_out():
    """For jsonargparse a list of callbacks may be one callback as well: no reason where there is another."""
    other = "Not a valid subclass of Callback"
    assert condense(f"- data/train.jsonl: no usable row\n- {other}") == "data/train.jsonl: no usable row"
    assert condense(other) == other


def test_help_is_offered_once(capsys):
    assert error_line(capsys, "generate") == "missing: --ckpt, --out (see unifluid generate --help)"


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_on_training_fits_a_screen(command, capsys):
    assert main([command, "--config", "nowhere.yaml", "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 60
    named = [
        "unifluid.UniFluid",
        "datamodules.Mixture",
        "--allow-module",
        "--ckpt_path",
        "--print_config",
        "--help-all",
    ]
    assert [name for name in named if name not in shown] == []


def test_what_the_short_help_names_is_there(capsys):
    """Every flag, and the ways to more."""
    assert main(["fit", "--help"]) == 0
    named = set(re.findall(r"^  (?:-c, )?(--[\w.-]+)", capsys.readouterr().out, re.MULTILINE))
    assert main(["fit", "--help-all"]) == 0
    every = capsys.readouterr().out
    elsewhere = {"--model.init_args.NAME", "--allow-module", "--help-all"}
    assert [flag for flag in named - elsewhere if f"  {flag} " not in every and f", {flag} " not in every] == []
    assert main(["fit", "--model.help", "unifluid.UniFluid"]) == 0
    assert "--model.lam LAM" in capsys.readouterr().out
    assert main(["test", "--trainer.callbacks.help", "callbacks.EMA"]) == 0
    assert "decay DECAY" in capsys.readouterr().out


def test_unknown_commands_are_named(capsys):
    assert "no command 'fitt'" in error_line(capsys, "fitt")
    assert "no command data 'emojis'" in error_line(capsys, "data", "emojis")


def raising(error):
    def run(command, args):
        raise error

    return run


def test_interrupts_bugs_and_mistakes_end_differently(monkeypatch, capsys):
    monkeypatch.setattr(dispatcher, "run", raising(KeyboardInterrupt()))
    assert main(["fit"]) == 130
    monkeypatch.setattr(dispatcher, "run", raising(SIGTERMException()))
    assert main(["fit"]) == 143
    monkeypatch.setattr(dispatcher, "run", raising(TypeError("a bug")))
    with pytest.raises(TypeError):
        main(["fit"])
    monkeypatch.setattr(dispatcher, "run", raising(ValueError("a mistake\n  in two lines")))
    assert error_line(capsys, "fit") == "a mistake; in two lines"
    monkeypatch.setattr(dispatcher, "run", raising(torch.OutOfMemoryError("CUDA: tried to allocate 2.00 GiB")))
    assert error_line(capsys, "fit").startswith(
        "out of memory (allocate 2.00 GiB): in fit raise trainer.accumulate_grad_ba"
    )
    monkeypatch.setattr(dispatcher, "run", lambda *_: torch.empty(1 << 60))
    assert error_line(capsys, "fit").startswith("out of memory (allocate 4611686018427387904 bytes): in fit raise")
    for size in ((1 << 62, 8), (10**30,)):
        monkeypatch.setattr(dispatcher, "run", lambda *_, size=size: torch.zeros(size))
        assert error_line(capsys, "fit").startswith("out of memory: in fit raise")
    monkeypatch.setattr(dispatcher, "run", raising(ValueError("a mistake\n  in two lines")))
    monkeypatch.setenv("UNIFLUID_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a mistake"):
        main(["fit"])


def test_the_module_is_the_console_script():
    done = subprocess.run([sys.executable, "-m", "unifluid", "nothing"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("unifluid: error: no command 'nothing'")
