"""fit, validate, test, predict: LightningCLI over any model and data module of the kit."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.ema import EMA
from callbacks.last import LastCheckpoint
from callbacks.predictions import PredictionSettings, predictions
from callbacks.schedule import Scheduled
from unifluid.checkpoints import CheckpointIO, is_exported
from unifluid.cli import display, flags, nulls
from unifluid.cli.lock import locked
from unifluid.cli.logs import RunLogger
from unifluid.cli.nearest import flag_hint
from unifluid.cli.opening import Opening
from unifluid.cli.runs import CONFIG, expand
from unifluid.configs import ALLOWED
from unifluid.precision import default_precision
from unifluid.storage import LAST, find, latest

# True of how the kit works, and nothing a user can or should act on.
EXPECTED = (
    r".*Total length of `.*` across ranks is zero",  # a run without validation
    r".*You have overridden `transfer_batch_to_device`",
    r".*treespec, LeafSpec",
    r".*in eval mode at the start of training",  # the image tokenizer is frozen
    r".*is not supported by the model summary",  # of megabytes in mixed precision, which are those of fp32
    r".*your dataloader is not resumable",  # its rows are a function of the step
)
SEEDS = ("model.init_args.seed", "data.init_args.seed")
DATA_ARGUMENTS = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule", "weights_only"}


class SaveConfig(SaveConfigCallback):
    """Into the run's folder, whatever logs, and to the loggers as hyperparameters.

    Later than Lightning's: a run that is refused for its settings must leave the config as it was.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        pass

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, folder / CONFIG, skip_unset=False, overwrite=True)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Not reached where a run is complete."""
        if trainer.is_global_zero:
            config = yaml.safe_load((Path(trainer.default_root_dir) / CONFIG).read_text(encoding="utf-8"))
            for logger in trainer.loggers:
                logger.log_hyperparams(config)


class CLI(LightningCLI):
    """One subcommand of LightningCLI, with the kit's way of keeping a run.

    A run is the folder `trainer.default_root_dir`: config.yaml, last.ckpt, TensorBoard logs. `fit` goes on from its
    last.ckpt unless told otherwise; the other commands evaluate it unless given --ckpt_path. The folder itself may
    stand for its config (`runs`).
    """

    def __init__(self, command: str, args: list[str], averaged: bool = False):
        """`averaged`: an EMA is judged, whatever callbacks the settings list."""
        self.command, self.averaged = command, averaged
        super().__init__(
            datamodule_class=L.LightningDataModule,
            subclass_mode_data=True,
            save_config_callback=SaveConfig if command == "fit" else None,
            save_config_kwargs={"save_to_log_dir": False},
            # The kit's data modules share rows out over ranks by themselves.
            trainer_defaults={"default_root_dir": "runs/default", "use_distributed_sampler": False},
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False, command: {"exit_on_error": False}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=[command, *args],
        )

    def subcommands(self) -> dict[str, set[str]]:
        """Only the one that runs: a parser for each of the four would cost seconds."""
        return {self.command: DATA_ARGUMENTS}

    def parse_arguments(self, parser: LightningArgumentParser, args: list[str]) -> None:
        nulls.mend()
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            flags = self._parser(self.command)._option_string_actions
            raise ValueError(f"{error}{flag_hint(str(error), [*flags, '--allow-module'])}") from error
        given = self.config[self.command].as_dict()
        for name, kind in (("trainer", L.Trainer), ("checkpoint", LastCheckpoint)):
            nulls.refuse_arguments(kind, given[name], name)
        for name in ("model", "data"):
            nulls.refuse(given[name], name)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name in SEEDS:
            parser.link_arguments("seed_everything", name)
        if self.command == "predict":
            parser.add_class_arguments(PredictionSettings, "predictions")
        # Known to every command, so that one YAML serves them all.
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_argument(
            "--resume", type=bool, default=True, help="fit goes on from last.ckpt in trainer.default_root_dir, if any."
        )

    def _parse_ckpt_path(self) -> None:
        """Lightning would let a checkpoint's settings silently win; `unpack_model` refuses a difference instead."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = self._get(self.config_init, "trainer")
        flags.check(self.command, settings)
        self.trainer_defaults["callbacks"] = display.callbacks(settings)
        if self.command == "fit" and settings["enable_progress_bar"] is not False:
            self.trainer_defaults["callbacks"].append(Opening())
        if self.averaged and not any(isinstance(callback, EMA) for callback in flags.callbacks_of(settings)):
            self.trainer_defaults["callbacks"].append(EMA())
        if any(isinstance(callback, display.ModelTable) for callback in self.trainer_defaults["callbacks"]):
            kwargs["enable_model_summary"] = False  # Lightning's own, of which ours takes the place
        if self.command == "predict":
            kwargs["logger"] = False
        elif settings["logger"] in (None, True):  # what is evaluated is kept by results/ and scores.json
            kwargs["logger"] = self.command == "fit" and RunLogger(settings["default_root_dir"])
        if settings["precision"] is None:
            kwargs["precision"] = default_precision(str(settings["accelerator"]))
        if isinstance(settings["val_check_interval"], int):  # optimizer steps; Lightning counts accumulated batches
            kwargs["val_check_interval"] = settings["val_check_interval"] * settings["accumulate_grad_batches"]
        plugins = settings["plugins"] or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        try:
            trainer = super().instantiate_trainer(plugins=[*plugins, CheckpointIO()], **kwargs)
        except TypeError as error:  # Lightning's word for, say, devices: 7x
            raise ValueError(f"trainer: {error}") from error
        if trainer.strategy.root_device.type == "cpu":  # training itself needs its cores
            warnings.filterwarnings("ignore", ".*does not have many workers")
        if settings["overfit_batches"]:  # Lightning takes it for validation as well, where it may be no batch at all
            limit = settings["limit_val_batches"]
            trainer.limit_val_batches = 1.0 if limit is None else limit
        return trainer

    # The trainer is told of the checkpoint before it starts: `configure_model` then knows that pretrained files need
    # not be read.

    def fit(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        writes = self.trainer.is_global_zero and not self.trainer.fast_dev_run
        try:
            with locked(self.trainer.default_root_dir) if writes else nullcontext():  # for all ranks
                if ckpt_path is not None:
                    self.trainer.ckpt_path = self._checkpoint(ckpt_path)
                    if is_exported(self.trainer.ckpt_path):
                        raise ValueError(
                            f"--ckpt_path {ckpt_path}: an exported model holds weights and no state of training to go "
                            f"on from: start from its weights with --model.init_args.init_from {ckpt_path}"
                        )
                elif self._get(self.config, "resume"):
                    self.trainer.ckpt_path = latest(self.trainer.default_root_dir)
                self.trainer.fit(**kwargs)
        except SIGTERMException:
            if any(isinstance(c, LastCheckpoint) and c.interrupted for c in self.trainer.callbacks):
                raise KeyboardInterrupt from None  # Ctrl-C, not a scheduler
            raise

    def validate(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        self.trainer.ckpt_path = self._checkpoint(ckpt_path)
        self.trainer.validate(**kwargs)
        self._check_measured(self.trainer.num_val_batches)

    def test(self, ckpt_path: str | None = None, **kwargs: Any) -> None:
        self.trainer.ckpt_path = self._checkpoint(ckpt_path)
        self.trainer.test(**kwargs)
        self._check_measured(self.trainer.num_test_batches)

    def predict(self, ckpt_path: str | None = None, **_: Any) -> None:
        """What the model makes of the validation sets: a test in which nothing is scored."""
        self.trainer.ckpt_path = self._checkpoint(ckpt_path)
        kept = [callback for callback in self.trainer.callbacks if not isinstance(callback, Scheduled)]
        self.trainer.callbacks = [*kept, *predictions(self.datamodule, self._get(self.config_init, "predictions"))]
        self.trainer.limit_test_batches = 1
        self.trainer.test(self.model, self.datamodule, verbose=False)

    def _check_measured(self, batches: list[int | float]) -> None:
        """Lightning passes over an evaluation without data, and the scores that callbacks take after it, in silence."""
        if not sum(batches):
            raise ValueError(
                f"{self.command}: nothing was measured, and no scores were taken: data.init_args.validation names no "
                "data, or trainer.limit_{val,test}_batches is 0"
            )

    def _checkpoint(self, path: str | Path | None) -> Path:
        """The checkpoint at `path`, that of the run where it is None or "last", or of the run in the folder `path`."""
        if path not in (None, LAST.removesuffix(".ckpt")):
            return find(path)
        folder = self.trainer.default_root_dir
        path = latest(folder)
        if path is None:
            raise ValueError(f"trainer.default_root_dir {folder} holds no last.ckpt: train first, or give --ckpt_path")
        return path


class Settings(CLI):
    """Parses and checks the settings of a run, and builds nothing."""

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def settings(args: list[str]) -> dict[str, Any]:
    """What `fit` with `args` would do, all files and flags merged."""
    return Settings("fit", prepare(args)).config["fit"].as_dict()


def no_advertisement(record: logging.LogRecord) -> bool:
    return "litlogger" not in record.getMessage()


def check_arguments(args: list[str]) -> None:
    """What jsonargparse gets wrong: it does not say which file is broken, and drops values of linked settings."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    known, rest = parser.parse_known_args(args)
    named = [*SEEDS, *(name.replace(".init_args", "") for name in SEEDS)]  # jsonargparse takes the short form, too
    given = {argument.removeprefix("--").partition("=")[0]: "the command line" for argument in rest}
    for path in filter(os.path.isfile, known.config):
        try:
            config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(config, dict | None):
            raise ValueError(f"{path}: no settings by name, such as trainer: {{max_steps: 100}}")
        for name in ("trainer", "checkpoint") if config else ():
            if not isinstance(config.get(name, {}), dict):
                raise ValueError(f"{path}: {name} holds settings by name, got {config[name]!r}")
        for name in named:
            value: Any = config
            for key in name.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            if value is not None:
                given[name] = path
    for name in named:
        if name in given:
            raise ValueError(f"{name} is given in {given[name]}, but seed_everything decides it: give that instead")


def trusted_modules(args: list[str]) -> tuple[list[str], list[str]]:
    """`args` -> (the modules of every --allow-module, the other arguments)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--allow-module", action="append", default=[])
    known, rest = parser.parse_known_args(args)
    return known.allow_module, rest


def prepare(args: list[str]) -> list[str]:
    """The arguments for jsonargparse, once class paths are held against the allowlist before anything is imported."""
    trusted, args = trusted_modules(args)
    check_arguments(args)
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*ALLOWED, *trusted])
    return args


def run(command: str, args: list[str]) -> None:
    args, averaged = expand(command, args)
    args = prepare(args)
    for message in EXPECTED:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(no_advertisement)
    CLI(command, args, averaged)
