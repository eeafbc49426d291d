"""How long the command line takes to start, whole processes, beside `python -c "import lightning"`.

The reference is what every program on Lightning must wait for. "One step" is a whole run of the demo's model, on pixels
and without validation: settings, model, vocabulary, data, one optimizer step, the checkpoint.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from tempfile import TemporaryDirectory

from benchmarks.hardware import ROOT
from benchmarks.harness import Bench, main

LIGHTNING = ["-c", "import lightning"]
KIT = ["-m", "unifluid"]
FIT = [*KIT, "fit", "--config", str(ROOT / "experiments" / "demo.yaml")]
ONE_STEP = [
    "--trainer.max_steps=1",
    "--trainer.limit_val_batches=0",
    "--trainer.callbacks=null",
    "--trainer.default_root_dir=FOLDER",
    "--model.init_args.image_tokenizer=unifluid.tokenizers.Pixels",
]
COMMANDS = {
    "unifluid --help": [*KIT, "--help"],
    "unifluid fit --print_config": [*FIT, "--print_config"],
    "unifluid fit, one step": [*FIT, *ONE_STEP],
}


def run(bench: Bench) -> None:
    reference = ["-c", "import json"] if bench.tiny else LIGHTNING
    for name, arguments in COMMANDS.items():
        if bench.wants(name) and (not bench.tiny or name == "unifluid --help"):
            bench.compare(name, partial(python, arguments), partial(python, reference), beside=" ".join(reference))


def python(arguments: list[str]) -> None:
    """Run a command line of Python to its end. Raises ValueError with its last line where it fails."""
    with TemporaryDirectory() as folder:  # a fresh run every time
        command = [sys.executable, *(a.replace("FOLDER", folder) for a in arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ValueError(f"python {' '.join(arguments)} failed: {last}")


if __name__ == "__main__":
    main("startup", __doc__, run)
