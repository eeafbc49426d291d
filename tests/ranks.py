"""Runs of several processes, for the tests: `launch(job, …)` here, `python ranks.py JOB …` in each of them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def launch(script: Path, *arguments: Any, world: int = 2, timeout: float = 500) -> None:
    """Run `script` as ranks 0 … world - 1 of one group; their output is shown where one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, str(script), *map(str, arguments)]
    ranks = [
        subprocess.Popen(
            command,
            env=environment | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    for process, output in zip(ranks, outputs, strict=True):
        assert process.returncode == 0, output[-5000:]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())
