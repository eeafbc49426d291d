"""The commands that README and the experiments show are real."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from unifluid.cli.main import COMMANDS
from unifluid.cli.sample import DESCRIPTIONS, make_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
SHOWN = re.findall(r"^ {4}(unifluid .+)$", README, re.MULTILINE)


def test_commands_were_found():
    assert {shlex.split(line)[1] for line in SHOWN} >= {"fit", "test", *DESCRIPTIONS}


@pytest.mark.parametrize("line", SHOWN)
def test_a_shown_command_is_real(line):
    _, command, *arguments = shlex.split(line)
    assert command in COMMANDS
    for flag, value in zip(arguments, arguments[1:], strict=False):
        assert flag != "--config" or (ROOT / value).exists()
    if command in DESCRIPTIONS:
        make_parser(command).parse_args(arguments)


def test_linked_files_exist():
    missing = [link for link in re.findall(r"\]\(([^)#:]+)\)", README) if not (ROOT / link).exists()]
    assert missing in ([], ["experiments/images/samples.png"])  # which the demo draws
