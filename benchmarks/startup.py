"""How long the command line takes to start, whole processes, beside `python -c "import lightning"`.

The reference is what every program on Lightning must wait for. "One step" is a whole run of the demo's model, on pixels
and without validation: settings, model, vocabulary, data, one optimizer step, the checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.hardware import ROOT
from benchmarks.harness import Bench, main
from benchmarks.timing import clocked, interleaved

DEMO = ROOT / "experiments" / "demo.yaml"
LIGHTNING = ["-c", "import lightning"]


def run(bench: Bench) -> None:
    with TemporaryDirectory() as folder:
        reference = ["-c", "import json"] if bench.tiny else LIGHTNING
        for name, arguments in commands(folder).items():
            if bench.wants(name) and (not bench.tiny or name == "unifluid --help"):
                bench.say(f"{name} …")
                python(reference)  # from here on both are in the file cache
                python(arguments)
                work = {"ours": clocked(partial(python, arguments)), "reference": clocked(partial(python, reference))}
                bench.add(name, interleaved(work, bench.repeats), beside=f"python {' '.join(reference)}")


def commands(folder: str) -> dict[str, list[str]]:
    kit = ["-m", "unifluid"]
    fit = [*kit, "fit", "--config", str(DEMO)]
    one = [
        "--trainer.max_steps=1",
        "--trainer.limit_val_batches=0",
        "--trainer.callbacks=null",
        f"--trainer.default_root_dir={folder}",
        "--model.init_args.image_tokenizer=unifluid.tokenizers.Pixels",
    ]
    return {
        "unifluid --help": [*kit, "--help"],
        "unifluid fit --print_config": [*fit, "--print_config"],
        "unifluid fit, one step": [*fit, *one],
    }


def python(arguments: list[str]) -> None:
    """Run a command line of Python to its end. Raises ValueError with its last line where it fails."""
    for old in Path(arguments[-2].partition("=")[2] or os.devnull).glob("last*"):  # one step: a fresh run every time
        old.unlink()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise ValueError(f"python {' '.join(arguments)} failed: {last}")


if __name__ == "__main__":
    main("startup", __doc__, run)
