"""`unifluid COMMAND …`: names the commands, runs one, and turns mistakes into one line.

Nothing heavy is imported before a command runs, so that help comes at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from unifluid import __version__
from unifluid.cli.errors import one_line
from unifluid.nearest import did_you_mean

COMMANDS = {  # name: (module with `run(command, args)`, what it does)
    "fit": ("training", "train a model described in YAML; goes on where it was interrupted"),
    "validate": ("training", "losses and scheduled scores of a checkpoint"),
    "test": ("training", "final scores of a checkpoint"),
    "predict": ("training", "captions, answers, pictures and edits for the validation sets"),
    "generate": ("sample", "draw pictures from prompts"),
    "caption": ("sample", "describe pictures"),
    "answer": ("sample", "answer questions about pictures"),
    "edit": ("sample", "change pictures by instructions"),
    "serve": ("serve", "a page in the browser: draw, describe, ask, edit"),
    "reconstruct": ("reconstruct", "check an image tokenizer: pictures encoded and decoded, with PSNR"),
    "plan": ("plan", "parameters, FLOPs, memory and hours of a run, before it starts"),
    "score": ("score", "score pictures, captions or answers in files, whoever made them"),
    "selftest": ("selftest", "try GenEval's judges on pictures whose content is known"),
    "study": ("study", "train the arms of a study, and say whether its claim holds"),
    "report": ("report", "write one HTML page about runs: settings, curves, scores, pictures"),
    "export": ("export", "write a checkpoint as safetensors and config"),
    "data": ("data", "make, check, shard and cache data sets"),
    "weights": ("weights", "fetch a small pretrained model for a backbone or image encoder"),
}


def usage() -> str:
    lines = [f"  {name:11} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: unifluid COMMAND [options]",
            "",
            "One transformer that draws what a sentence says and describes what a picture shows.",
            "",
            "commands:",
            *lines,
            "",
            "`unifluid COMMAND --help` lists its options. UNIFLUID_TRACEBACK=1 shows where an error comes from.",
        ]
    )


def main(args: list[str] | None = None) -> int:
    """Run one command -> exit code: 0, 2 for a mistake of the user's, 130 when interrupted. A bug is raised."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"unifluid {__version__}")
        return 0
    try:
        return run(args[0], args[1:])
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return exit_code(stop)
    except Exception as error:
        line = one_line(error)
        if line is None or os.environ.get("UNIFLUID_TRACEBACK"):
            raise
        print(f"unifluid: error: {line}", file=sys.stderr)
        return 2


def exit_code(stop: SystemExit) -> int:
    """Lightning ends with 1 after Ctrl-C, and with nothing, which would mean success, after SIGTERM."""
    if isinstance(stop.__context__, KeyboardInterrupt):
        return 130
    if type(stop).__name__ == "SIGTERMException":
        return 143
    return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def run(command: str, args: list[str]) -> int:
    if command not in COMMANDS:
        near = did_you_mean(command, COMMANDS)
        raise ValueError(f"no command {command!r}, there are: {', '.join(COMMANDS)}{near}")
    import_module(f"unifluid.cli.{COMMANDS[command][0]}").run(command, args)
    return 0
