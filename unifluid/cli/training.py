"""fit, validate, test, predict: their short help, which comes at once; all else is `trainer`'s, imported to run."""

from __future__ import annotations

ABOUT = {
    "fit": "Train the model that YAML files describe. The same command goes on where a run was interrupted.",
    "validate": "Losses and scheduled scores of a checkpoint.",
    "test": "Final scores of a checkpoint.",
    "predict": "Captions, answers, pictures and edits for the validation sets, into the run's folder.",
}
SETTINGS = """\
settings:
  RUN                             the folder of a run, for the settings it was trained with
  -c, --config FILE               settings in YAML; may be repeated, the last word counts
  --model CLASS                   such as unifluid.UniFluid
  --model.init_args.NAME VALUE    an argument of the model: --model.init_args.lam 0.1
  --data CLASS                    such as datamodules.Mixture; arguments as the model's
  --allow-module NAME             trust this package's classes, to be named like the kit's; may be repeated
  --seed_everything N             of every draw and of the initial weights (0)"""
FOLDER = """\
  --trainer.default_root_dir DIR  the run's folder: config.yaml, last.ckpt, scores.json, logs (runs/default)"""
TRAINING = """\
  --trainer.max_steps N           optimizer steps
  --checkpoint.every N            optimizer steps between saves (500)
  --checkpoint.minutes M          minutes after which it saves anyway (2)
  --resume false                  start over; otherwise the run goes on from its last.ckpt
  --ckpt_path FILE                go on from this checkpoint instead"""
EVALUATION = """\
  --ckpt_path PATH                a checkpoint or an exported folder (last.ckpt of the run's folder)"""
MACHINE = """\
  --trainer.devices N             GPUs, or processes on CPUs; --trainer.accelerator cpu leaves GPUs alone
  --trainer.precision P           bf16-mixed or 32-true (what suits the machine)"""
MORE = """\
more help:
  --print_config                  print all settings as YAML, and stop
  --model.help unifluid.UniFluid  arguments of a class; also --data.help datamodules.Mixture and
                                  --trainer.callbacks.help callbacks.EMA
  --help-all                      every flag there is"""
FIT_EXAMPLES = """\
examples:
  unifluid fit --config experiments/demo.yaml --trainer.max_steps 1000 --model.init_args.lam 0.5
  unifluid fit --config mine.yaml --allow-module mine

where mine.yaml holds at least
  model: {class_path: unifluid.UniFluid, init_args: {backbone: …, image_head: …, …}}
  data: {class_path: datamodules.Mixture, init_args: {streams: {…}}}
experiments/ has complete ones."""
OTHER_EXAMPLES = """\
examples:
  unifluid COMMAND runs/demo
  unifluid COMMAND --config experiments/demo.yaml --ckpt_path FILE
  unifluid COMMAND --config experiments/demo.yaml --config experiments/shapes.yaml --ckpt_path experiments/models/shapes

Without a config the model is the checkpoint's, unifluid.UniFluid say, and only data are to be named:
  unifluid COMMAND --ckpt_path FILE --config mine.yaml
with data: {class_path: datamodules.Mixture, init_args: {…}} in mine.yaml."""


def usage(command: str) -> str:
    """The help of one screen."""
    own = [TRAINING] if command == "fit" else [EVALUATION]
    examples = FIT_EXAMPLES if command == "fit" else OTHER_EXAMPLES.replace("COMMAND", command)
    return "\n".join(
        [
            f"usage: unifluid {command} [RUN] [--config FILE] [--SETTING VALUE]",
            "",
            ABOUT[command],
            "",
            SETTINGS,
            "",
            "the run:",
            FOLDER,
            *own,
            MACHINE,
            "",
            MORE,
            "",
            examples,
        ]
    )


def run(command: str, args: list[str]) -> None:
    if {"-h", "--help"} & set(args):
        print(usage(command))
        return
    from unifluid.cli import trainer

    trainer.run(command, ["--help" if arg == "--help-all" else arg for arg in args])
