"""Wrong, rare and extreme values for every setting of a tiny run: each works, or is refused in one line.

PYTHONPATH=tests python tests/cli/fuzz.py 200 --seed 1      so many tries; prints those that ended otherwise
PYTHONPATH=tests python tests/cli/fuzz.py 60 --run SigLIP --under model.init_args.image_encoder
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import copy
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from cli import variants

from unifluid.cli.main import main

TINY = Path(__file__).with_name("tiny.yaml")
VALUES = [None, -1, 0, 1, 2, 0.5, 1e9, -1e-9, float("nan"), float("inf"), "a string", "", True, False, [], {}]
VALUES += [[1, 2], [None], {"a": 1}, 10**30, "1", "null", "../..", "unifluid.UniFluid", "torch.nn.Linear", "é\u2028"]
# Where a value may be right, and then starts many processes, waits for other machines, or takes minutes.
CAREFUL = {"devices", "num_nodes", "workers", "max_steps", "max_epochs", "min_steps", "min_epochs", "compile"}
SECONDS = 20  # by then it works, slowly
MEMORY = 6 << 30  # bytes beyond what is taken: a machine that others use must not swap

RUN = """
trainer: {max_steps: 1, limit_val_batches: 1, accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
"""


@cache
def written() -> Path:
    """The folder of what runs read, written once a process."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    variants.write(folder)
    return folder


def whole(name: str) -> dict[str, Any]:
    """All settings of a run of `variants`, as `--print_config` says them."""
    text = variants.RUNS[name]
    if "FILES" in text:
        sha256 = hashlib.sha256((written() / "inception.pth").read_bytes()).hexdigest()
        text = text.replace("FILES", str(written())).replace("SHA256", sha256)
    changed = yaml.safe_load(text)
    with tempfile.TemporaryDirectory() as folder:
        path, printed = Path(folder, "variant.yaml"), io.StringIO()
        path.write_text(yaml.safe_dump(changed))
        base = yaml.safe_load(TINY.read_text())
        if "tokenizer" in changed.get("model", {}).get("init_args", {}):
            del base["model"]
        Path(folder, "base.yaml").write_text(yaml.safe_dump(base))
        Path(folder, "run.yaml").write_text(RUN)
        files = [x for name in ("base", "run", "variant") for x in ("--config", f"{folder}/{name}.yaml")]
        with contextlib.redirect_stdout(printed):
            assert main(["fit", *files, "--allow-module", "tiny", "--print_config"]) == 0
    return yaml.safe_load(printed.getvalue())


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every setting, and every group of settings."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(config: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    place: Any = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return config


def careless(path: tuple[str | int, ...], value: Any) -> bool:
    return path[-1] in CAREFUL and (value is True or isinstance(value, int | float) and not value <= 1)


class Slow(BaseException):
    """Not stopped by whoever handles errors."""


def try_it(config: dict[str, Any]) -> str | None:
    """What is wrong with how a run of `config` ends, if anything is."""

    def late(*_: Any) -> None:
        raise Slow

    heard = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), warnings.catch_warnings():
        inner = Path("a/b/c")  # "../.." is a folder to try
        inner.mkdir(parents=True)
        before = signal.signal(signal.SIGALRM, late)
        with contextlib.chdir(inner), contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
            Path("config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
            signal.alarm(SECONDS)
            try:
                code = main(["fit", "--config", "config.yaml", "--allow-module", "tiny"])
            except Slow:
                return None
            except BaseException as error:
                return f"raised {type(error).__name__}: {str(error)[:300]}"
            finally:
                signal.alarm(0)
                signal.signal(signal.SIGALRM, before)
    lines = [line for line in heard.getvalue().splitlines() if line.startswith("unifluid: ")]
    told = len(lines) == 1 and len(lines[0]) > len("unifluid: error: ") and "Traceback" not in heard.getvalue()
    return None if code == 0 or told and code == 2 else f"code {code}: {lines}"


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def tries(n: int, seed: int, names: Sequence[str], under: str = "") -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(setting, value, config) by chance, each setting about as often; of those whose name begins with `under`."""
    draw = random.Random(seed)
    configs = [whole(name) for name in names]
    known = [(c, path) for c in configs for path in places(c) if ".".join(map(str, path)).startswith(under)]
    for _ in range(n):
        config, path = draw.choice(known)
        value = draw.choice(VALUES)
        if not careless(path, value):
            yield ".".join(map(str, path)), value, changed(config, path, value)


def faults(
    n: int, seed: int, names: Sequence[str] = tuple(variants.RUNS), under: str = "", show: bool = False
) -> list[str]:
    """Those of `n` tries that ended neither well nor in one line."""
    found = []
    with little_memory():
        for name, value, config in tries(n, seed, names, under):
            if wrong := try_it(config):
                found.append(f"{name} = {json.dumps(value)}: {wrong}")
                if show:
                    print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", nargs="+", default=list(variants.RUNS), choices=list(variants.RUNS))
    parser.add_argument("--under", default="", help="only settings whose names begin so")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(len(faults(given.n, given.seed, given.run, given.under, show=True)), "faults")
