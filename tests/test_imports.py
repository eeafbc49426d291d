"""Who may import whom: DESIGN's table, held by reading the imports of every file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(f for package in ("unifluid", "datamodules", "callbacks") for f in (ROOT / package).rglob("*.py"))

MATHS = tuple(
    f"unifluid.{name}"
    for name in (
        "layout",
        "interfaces",
        "sequence",
        "packing",
        "randomness",
        "precision",
        "diffusion",
        "samplers",
        "layers",
    )
)
MATHS += ("unifluid.lines", "unifluid.nearest")  # text is none, but as widely used
STORES = (
    "unifluid",
    "unifluid.configs",
    "unifluid.shards",
    "unifluid.storage",
    "unifluid.checkpoints",
    "unifluid.init_from",
)
TRAINING = ("unifluid.optimization", "unifluid.model", "unifluid.decoding")
SCORING = ("unifluid.decoding", "unifluid.evaluation")
PARTS = ("backbones", "tokenizers", "encoders", "heads")
EVERYTHING = ("unifluid", "datamodules", "callbacks")
ANY = "(any library)"

# room: (rooms of the kit it may import, libraries it may import). A room may always import itself.
ROOMS = {
    **dict.fromkeys(MATHS, (MATHS, ("torch", "einops"))),
    "unifluid.weights": ((), ("torch", "safetensors", "huggingface_hub")),
    **{f"unifluid.{part}": ((*MATHS, "unifluid.weights"), ANY) for part in PARTS},
    "unifluid.model": (MATHS, ("torch", "einops")),
    "unifluid.decoding": ((*MATHS, "unifluid.model"), ("torch", "einops")),
    "unifluid.shards": ((), ("torch",)),
    "unifluid.optimization": ((*MATHS, "unifluid.shards"), ("torch",)),
    "unifluid.configs": (MATHS, ()),
    "unifluid.storage": (("unifluid.shards",), ("torch", "lightning")),
    "unifluid.paligemma": ((*MATHS, "unifluid.backbones", "unifluid.encoders"), ANY),
    "unifluid.init_from": ((*MATHS, *STORES, "unifluid.paligemma"), ("torch", "lightning")),
    "unifluid.checkpoints": ((*MATHS, *STORES, "unifluid.paligemma"), ("torch", "lightning", "safetensors")),
    "unifluid.sharding": ((*MATHS, "unifluid.shards", "unifluid.storage", "unifluid.model"), ("torch", "lightning")),
    "unifluid.modules": ((*MATHS, *STORES, *TRAINING, "unifluid.sharding"), ("torch", "lightning")),
    "unifluid.costs": ((*MATHS, "unifluid.model"), ("torch",)),
    "unifluid.evaluation": ((*MATHS, "unifluid.weights"), ANY),
    "unifluid.report": (("unifluid", "unifluid.evaluation.scores"), ANY),
    "unifluid.studies": (("unifluid.evaluation.scores", "unifluid.nearest", "unifluid.report"), ANY),
    "datamodules": ((*MATHS, "unifluid.configs", "unifluid.evaluation.coco"), ANY),
    "callbacks": ((*MATHS, *STORES, *SCORING, "unifluid.sharding", "datamodules"), ANY),
    "unifluid.pipeline": (EVERYTHING, ANY),
    "unifluid.attention": (
        (*MATHS, "unifluid.backbones", "unifluid.decoding", "unifluid.pipeline", "datamodules.images"),
        ("torch", "PIL"),
    ),
    "unifluid.page": (("unifluid.decoding", "unifluid.pipeline", "unifluid.cli.errors", "datamodules.images"), ANY),
    "unifluid.cli": (EVERYTHING, ANY),
    "unifluid.__main__": (("unifluid.cli",), ()),
    "unifluid": ((), ()),  # __init__: what it offers is imported on first use
}
LIGHTNING_FREE = (
    *MATHS,
    "unifluid.weights",
    "unifluid.paligemma",
    *(f"unifluid.{p}" for p in PARTS),
    "unifluid.model",
    "unifluid.decoding",
    "unifluid.evaluation",
)
# inside functions only, but where the page is made, which is itself imported in functions
HEAVY = {
    "transformers",
    "tokenizers",
    "diffusers",
    "datasets",
    "pyarrow",
    "open_clip",
    "torch_fidelity",
    "gradio",
    "matplotlib",
    "jinja2",
    "markupsafe",
    "tensorboard",
    "timm",
}


def module_name(file: Path) -> str:
    name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def room_of(name: str) -> str:
    """The longest room that `name` is in."""
    return max((room for room in ROOMS if within(name, room)), key=len)


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """(imported module, whether at import time) of a file; `from unifluid import sequence` gives the submodule."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    later = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) or for_types(f)]
    inside = {id(n) for f in later for n in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if exists(name) else node.module for name in submodules]
        else:
            continue
        yield from ((name, id(node) not in inside) for name in names)


def for_types(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`, which never runs."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def violations(file: Path) -> list[str]:
    name = module_name(file)
    room = room_of(name)
    allowed, libraries = ROOMS[room]
    found = []
    for imported, at_import in imports(file):
        top = imported.split(".")[0]
        if top in EVERYTHING:
            exact = "unifluid" in allowed and allowed is not EVERYTHING  # the bare package: its version only
            rooms = [r for r in allowed if not (exact and r == "unifluid")]
            good = (
                within(imported, room) or any(within(imported, r) for r in rooms) or (exact and imported == "unifluid")
            )
        elif top in sys.stdlib_module_names:
            good = True
        else:
            good = libraries is ANY or top in libraries
            light = top not in HEAVY or (top, room) == ("gradio", "unifluid.page")
            good &= not (top == "lightning" and room in LIGHTNING_FREE) and (light or not at_import)
        if not good:
            found.append(f"{name} must not import {imported}")
    return found


def test_files_were_found():
    assert len(FILES) > 40


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_rooms_import_downwards_only(file):
    assert not violations(file)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("unifluid/model.py", "from unifluid.heads import FlowMLP"),
        ("unifluid/model.py", "import lightning"),
        ("unifluid/heads/new.py", "from unifluid.backbones import Decoder"),
        ("unifluid/heads/new.py", "def f():\n    import lightning"),
        ("unifluid/backbones/new.py", "import transformers"),
        ("unifluid/encoders/new.py", "from timm.layers import PatchEmbed"),
        ("unifluid/model.py", "if TYPE_CHECKING:\n    import transformers"),
        ("unifluid/cli/new.py", "import gradio"),
        ("unifluid/sequence.py", "from unifluid import model"),
        ("unifluid/decoding/new.py", "from unifluid.modules.unifluid import UniFluid"),
        ("datamodules/new.py", "from unifluid.model import UniFluidModel"),
        ("callbacks/new.py", "from unifluid.tokenizers import Pixels"),
        ("unifluid/evaluation/new.py", "import unifluid.model"),
        ("unifluid/__init__.py", "import torch"),
    ],
)
def test_a_breach_is_seen(place, line, tmp_path, monkeypatch):
    file = tmp_path / "broken.py"
    file.write_text(line)
    name = ".".join(Path(place).with_suffix("").parts).removesuffix(".__init__")
    monkeypatch.setitem(globals(), "module_name", lambda _: name)
    assert violations(file)


def test_no_two_files_import_each_other():
    """Not even for types: a cycle means that neither can be read before the other."""
    imported = {module_name(f): {name for name, _ in imports(f) if name.split(".")[0] in EVERYTHING} for f in FILES}
    done, cycles = set(), []

    def follow(name: str, path: list[str]) -> None:
        for other in imported.get(name, ()):
            if other in path:
                cycles.append([*path[path.index(other) :], other])
            elif other not in done:
                follow(other, [*path, other])
        done.add(name)

    for name in imported:
        follow(name, [name])
    assert not cycles


def test_importing_the_package_imports_no_torch():
    code = "import sys, unifluid; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_the_package_offers_is_there():
    import unifluid

    for name in unifluid.__all__:
        assert getattr(unifluid, name).__name__ == name
    with pytest.raises(AttributeError):
        unifluid.nothing  # noqa: B018
