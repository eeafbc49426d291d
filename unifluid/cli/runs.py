"""A run's folder on the command line: its own config.yaml, and models that come from checkpoints.

unifluid test runs/mine                                    as it was trained, flags and all
unifluid test --config tasks/vqa.yaml --ckpt_path FILE     the model of a checkpoint on other data
"""

from __future__ import annotations

import argparse
import atexit
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from unifluid.checkpoints import is_exported, read_config
from unifluid.configs import Config

CONFIG = "config.yaml"


def expand(command: str, args: list[str]) -> tuple[list[str], bool]:
    """`args` with what a run's folder or a checkpoint stand for written out; and whether the model comes from a
    checkpoint that has an EMA, which then is what is judged.

    Raises ValueError or FileNotFoundError naming the folder or file.
    """
    if args and not args[0].startswith("-"):
        args = [*_settings_of(args[0]), *args[1:]]
    for flag in ("--resume", "--checkpoint") if command != "fit" else ():
        if any(arg.split("=")[0].split(".")[0] == flag for arg in args):
            raise ValueError(f"{flag} is for fit, {command} does not use it: leave it out")
    if command == "fit" or not args or any(map(_asks_for_help, args)):
        return args, False
    named, checkpoint = _model_and_checkpoint(args)
    if named:
        return args, False
    if checkpoint is None:
        raise ValueError(f"{command}: no model is named: give --ckpt_path FILE, a run's folder, or model.class_path")
    if checkpoint == "last":
        raise ValueError(f"--ckpt_path last is the checkpoint of a run: name its folder, unifluid {command} runs/mine")
    settings, averaged = _model_of(checkpoint)
    return ["--config", settings, *args], averaged


def _asks_for_help(arg: str) -> bool:
    """--help, or that of a class: --model.help=CLASS."""
    return arg.partition("=")[0].split(".")[-1] in ("-h", "--help", "help")


def _settings_of(folder: str) -> list[str]:
    path = Path(folder) / CONFIG
    if not path.is_file():
        other = f", or --ckpt_path {folder} and data, for it is an exported model" if is_exported(folder) else ""
        raise ValueError(f"{folder}: no run, it holds no {CONFIG}: give a run's folder or --config FILE{other}")
    return ["--config", str(path), "--trainer.default_root_dir", folder]


def _model_and_checkpoint(args: list[str]) -> tuple[bool, str | None]:
    """Whether `args` name the class of the model; and the checkpoint they name, if any."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    for name in ("--ckpt_path", "--model"):
        parser.add_argument(name)
    given, _ = parser.parse_known_args(args)
    configs = [config for path in given.config if os.path.isfile(path) if (config := _yaml(path)) is not None]
    models = [given.model, *(_class_of(config.get("model")) for config in configs)]
    found = [given.ckpt_path, *(config.get("ckpt_path") for config in reversed(configs))]
    return any(models), next(filter(None, found), None)


def _yaml(path: str) -> dict[str, Any] | None:
    """None where it is no YAML object: whoever reads the settings says so, naming the file."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    return config if isinstance(config, dict) else None


def _class_of(model: Any) -> str | None:
    return model.get("class_path") if isinstance(model, dict) else model


def _model_of(checkpoint: str) -> tuple[str, bool]:
    """A file of settings with the model of `checkpoint`, whose seed is the run's; and whether it has an EMA."""
    config, averaged = read_config(checkpoint)
    model = _plain(config)
    settings = {"seed_everything": model["init_args"].pop("seed", 0), "model": model}
    with tempfile.NamedTemporaryFile("w", prefix="unifluid-", suffix=".yaml", delete=False, encoding="utf-8") as file:
        yaml.safe_dump(settings, file)
    atexit.register(Path(file.name).unlink, missing_ok=True)
    return file.name, averaged


def _plain(value: Any) -> Config | Any:
    """Factories are classes with arguments for jsonargparse too, without a mark."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items() if name != "partial" or "class_path" not in value}
    return [_plain(v) for v in value] if isinstance(value, list) else value
