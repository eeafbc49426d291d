"""Two runs never write into one folder."""

import subprocess
import sys

import pytest
from cli.runs import fit_arguments

from unifluid.cli.lock import locked
from unifluid.cli.main import main

HOLD = """
import sys
from unifluid.cli.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_run_is_refused_until_the_first_is_gone(tmp_path, capsys):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(OSError, match=f"in use by process {first.pid} on .* since "):
            with locked(tmp_path):
                pass
        assert main(fit_arguments(tmp_path)) == 2
        assert f"in use by process {first.pid} on " in capsys.readouterr().err
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
        first.kill()
    with locked(tmp_path):
        pass
