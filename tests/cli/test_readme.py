"""What README and docs show is real: commands parse, the cheap ones run word for word, links lead somewhere."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import standin

from unifluid.cli import trainer
from unifluid.cli.errors import Parser
from unifluid.cli.main import COMMANDS, main
from unifluid.cli.sample import DESCRIPTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / "experiments" / name for name in ("README.md", "transfer/README.md")]
SHIPPED = "experiments/models/shapes"


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


def shown(page: Path) -> list[str]:
    """The commands of a page: indented by four, outside of other blocks."""
    return re.findall(r"^ {4}(?:PYTHONPATH=\. )?(unifluid .+?)(?:  +#.*)?$", text(page), re.MULTILINE)


SHOWN = {line: page for page in reversed(PAGES) for line in shown(page)}
CASES = [pytest.param(line, id=f"{SHOWN[line].stem}: {line[9:60]}") for line in sorted(SHOWN)]


class Parsed(Exception):
    """Raised in place of what a command would do once its arguments are understood."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    standin.write_world(folder)
    return folder


def test_commands_were_found():
    assert {shlex.split(line)[1] for line in SHOWN} >= set(COMMANDS) - {"validate"}
    assert {shlex.split(line)[1] for line in shown(ROOT / "README.md")} >= {"fit", "test", *DESCRIPTIONS}


@pytest.mark.parametrize("line", CASES)
def test_a_shown_command_is_real(line, world, monkeypatch):
    _, command, *arguments = shlex.split(line)
    assert command in COMMANDS
    named = [value for flag, value in zip(arguments, arguments[1:], strict=False) if flag == "--config"]
    made_here = [name for name in named if "/" not in name]  # which the page shows how to write
    assert all((ROOT / name).exists() for name in named if name not in made_here)
    monkeypatch.chdir(world)
    if command in ("validate", "test", "predict"):
        assert named or arguments[0].startswith("runs/")
        return
    if command == "fit":
        trainer.settings(without(arguments, made_here))
        return
    for name in ("parse_args", "parse_known_args"):
        stop_after(monkeypatch, name)
    with pytest.raises(Parsed):
        import_module(f"unifluid.cli.{COMMANDS[command][0]}").run(command, arguments)


def without(arguments: list[str], made_here: list[str]) -> list[str]:
    """`arguments` of fit, but for files and modules that a page shows how to write."""
    kept, words = [], iter(arguments)
    for word in words:
        pair = [word, next(words)] if word in ("--config", "--allow-module") else [word]
        kept += [] if word == "--allow-module" or pair[-1] in made_here else pair
    return kept


def stop_after(monkeypatch, name: str) -> None:
    parse = getattr(Parser, name)

    def parse_and_stop(self, *args, **kwargs):
        parse(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(Parser, name, parse_and_stop)


def cheap(page: Path) -> Iterator[list[str]]:
    """Commands of a page that need nothing but a model and what the page itself makes."""
    for line in shown(page):
        words = shlex.split(line)
        if words[1] in (*DESCRIPTIONS, "export") and {SHIPPED, "runs/demo/last.ckpt"} & set(words):
            yield words[1:]


@pytest.mark.parametrize("name", ["README.md", "docs/index.md", "docs/use.md"])
def test_commands_run_word_for_word(name, world, tmp_path, monkeypatch, capsys):
    for file in world.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red circle\ntwo blue squares\n")
    ran = 0
    for arguments in cheap(ROOT / name):
        expanded = [path for word in arguments for path in (sorted(glob.glob(word)) if "*" in word else [word])]
        assert main(expanded) == 0, capsys.readouterr().err
        ran += 1
    assert ran >= 1
    assert Path("out/00000.png").is_file()


@pytest.mark.parametrize("name", ["README.md", "docs/use.md"])
def test_python_runs_word_for_word(name, world, tmp_path, monkeypatch):
    for file in world.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", text(ROOT / name), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
    assert blocks and Path("circle.png").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page):
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:`|^ {4})make ([\w-]+)", text(page), re.MULTILINE):
        assert target in targets or target == "bench"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_files_exist(page):
    for link in re.findall(r"\]\((?!https?:)([^)#\s]+)", text(page)):
        path = (page.parent / link).resolve()
        assert path.exists(), link
