"""The site is built without a warning and asks nobody for anything; the code on its pages runs."""

from __future__ import annotations

import importlib
import json
import logging
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from browser import chromium
from PIL import Image

from datamodules.formats.jsonl import parse
from unifluid.cli import trainer
from unifluid.cli.main import main
from unifluid.sequence import TASKS
from unifluid.studies.study import read_study

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
DEMO = ["--config", str(ROOT / "experiments/demo.yaml")]
CONTRACTS = ROOT / "tests/contracts"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8").replace("\\\n", " ")


def blocks(name: str, kind: str) -> dict[str, str]:
    """Code of one kind on a page, by its title or number."""
    found = BLOCK.findall(page(name))
    return {title or str(i): code for i, (language, title, code) in enumerate(found) if language == kind}


# -- the site -------------------------------------------------------------------------------------------------------


class Requests(HTMLParser):
    """What a browser would fetch to show a page; links that a reader must click are none of it."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("img", "script", "iframe", "source"):
            self.found.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.found.append(values.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as `make docs` does; a warning is an error (`strict`)."""
    commands = pytest.importorskip("mkdocs.commands.build", reason="the extra `docs` is not installed")
    config = importlib.import_module("mkdocs.config").load_config(str(ROOT / "mkdocs.yml"))
    config["site_dir"] = str(tmp_path_factory.mktemp("site"))
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("mkdocs").addHandler(handler)
    try:
        commands.build(config)
    finally:
        logging.getLogger("mkdocs").removeHandler(handler)
    assert not warnings
    return Path(config["site_dir"])


def test_every_page_is_built(site):
    for page in DOCS.glob("*.md"):
        assert (site / page.name).with_suffix(".html").is_file()
    for linked in ("experiments/NOTES.html", "experiments/index.html", "experiments/demo.yaml", "CONTRIBUTING.html"):
        assert (site / linked).is_file()  # pages link to them
    assert not (site / "hooks.py").exists()


def test_a_reader_asks_nobody_for_anything(site):
    for page in site.rglob("*.html"):
        requests = Requests()
        requests.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in requests.found if re.match(r"(https?:)?//", url)], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_a_browser_finds_all_it_needs_in_the_folder(site):
    with chromium() as seen:
        for name in ("index", "how_it_works", "reference"):
            seen.page.goto((site / f"{name}.html").as_uri())
            assert seen.broken_pictures() == []
        assert (seen.errors, seen.failed) == ([], [])
        assert {url.partition(":")[0] for url in seen.requested} <= {"file", "data", "blob"}


def test_the_reference_has_what_is_public(site):
    html = (site / "reference.html").read_text(encoding="utf-8")
    words = re.sub(r"<[^>]+>", "", html)
    for name in ("datamodules", "callbacks", "unifluid.backbones", "unifluid.tokenizers", "unifluid.encoders"):
        for public in importlib.import_module(name).__all__:
            assert public in words or public == "EncoderFeatures", public
    slots = importlib.import_module("unifluid.interfaces")
    for name, slot in vars(slots).items():
        if isinstance(slot, type) and slot.__module__ == slots.__name__ and name != "Recorded":
            assert f'id="{slots.__name__}.{name}"' in html, name
    assert "guidance" in words and "(B, L, D)" in words


def test_drawings_are_drawings():
    for file in (DOCS / "images").glob("*.svg"):
        svg = file.read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in svg and "<title>" in svg
        assert len(svg) < 20_000


# -- swap a part ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Iterator[Path]:
    """A folder with the files that the page says to write, from which Python imports."""
    folder = tmp_path_factory.mktemp("swap")
    for kind in ("python", "yaml"):
        for name, code in blocks("swap.md", kind).items():
            (folder / name).write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for file in folder.glob("*.py"):
        sys.modules.pop(file.stem, None)


def names(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.py"))


def module(folder: Path, name: str) -> ModuleType:
    assert (folder / f"{name}.py").is_file()
    return importlib.import_module(name)


def test_each_class_has_its_line(written):
    assert names(written) == sorted(file.stem for file in written.glob("*.yaml"))
    assert len(names(written)) == 6


@pytest.mark.parametrize("together", [["plain", "letters", "cosines", "flow", "lengths"], ["clocks"]], ids=len)
def test_swapped_parts_train(together, written, tmp_path, monkeypatch):
    """On the default run, made small: two steps, samples and scores, and a checkpoint that draws."""
    small = {
        "seed_everything": 0,
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, "default_root_dir": "run"},
        "model": {"init_args": {"image_encoder": {"init_args": {"channels": 4}}, "copies": 1}},
        "data": {"init_args": {"validation_examples": 2}},
    }
    if "cosines" not in together:  # whose own has no weights to miss
        small["model"]["init_args"]["image_tokenizer"] = {"init_args": {"weights": None, "channels": 16}}
    streams = {task: {"rows": 2} for task in ("generate", "answer")}
    shapes = {"class_path": "datamodules.shapes.Shapes"}
    if "clocks" not in together:
        small["trainer"]["callbacks"] = []
        streams = {t: {**s, "dataset": {**shapes, "init_args": {"task": t}}} for t, s in streams.items()}
        small["data"]["init_args"]["streams"] = streams
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    monkeypatch.chdir(tmp_path)
    allow = [word for name in together for word in ("--allow-module", name)]
    overlays = [word for name in together for word in ("--config", str(written / f"{name}.yaml"))]
    head, tail = overlays[:-2], overlays[-2:]  # the callback goes on top: callbacks+
    order = (
        [*head, *tail, "--config", "small.yaml"] if "clocks" in together else [*head, "--config", "small.yaml", *tail]
    )
    assert main(["fit", *DEMO, *order, *allow]) == 0
    scores = json.loads(Path("run/scores.json").read_text())
    assert scores["qa/accuracy" if "clocks" in together else "lengths/words"] is not None
    how = ["--steps", "2", "--guidance", "2", "--out", "out", *allow]
    assert main(["generate", "--ckpt", "run", "--prompt", "a clock at two 15", *how]) == 0
    assert Image.open("out/00000.png").size == (32, 32)


def test_commands_beside_the_examples_run(written, tmp_path, monkeypatch, capsys):
    """Those that look at data or an image tokenizer before anything is trained, word for word."""
    monkeypatch.chdir(tmp_path)
    Path("data/own/images").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save("data/own/images/cat.png")
    lines = re.findall(r"^ {4}PYTHONPATH=\. unifluid ((?:data|reconstruct) .+)$", page("swap.md"), re.MULTILINE)
    for line in lines:
        assert main(shlex.split(line)) == 0, capsys.readouterr().err
    assert len(lines) == 2
    shown = capsys.readouterr().out
    assert "123" in shown and "dB" in shown, shown  # examples of clocks; how well a red picture is kept


@pytest.mark.parametrize(
    ("name", "build", "contract", "tests"),
    [
        (
            "plain",
            lambda m: m.Plain(24, width=32, depth=2, heads=4, longest=32),
            "test_backbones.py",
            {"test_no_position_sees_what_it_may_not": 1, "test_shapes": None, "test_cached_equals_uncached": [2, 1, 4]}
            | {"test_a_packed_segment_is_what_it_is_alone": None, "test_a_cache_can_be_reordered_and_widened": None}
            | {"test_gradients_are_finite_with_padding": None, "test_mixed_precision_stays_close": None},
        ),
        (
            "flow",
            lambda m: m.Flow(4, 8, width=32),
            "test_image_heads.py",
            {"test_times": None, "test_loss_is_per_token_and_copy_in_float32": None, "test_guidance": None}
            | {"test_outside_the_interval_the_condition_is_alone": None}
            | {"test_loss_of_a_token_depends_on_its_own_arguments_only": "noise", "test_temperature": None}
            | {"test_sample_is_a_function_of_its_arguments_row_by_row": None, "test_bf16_changes_little": None},
        ),
        (
            "letters",
            lambda m: m.Letters(),
            "test_text_tokenizers.py",
            {"test_random_text_comes_back": None, "test_decode_leaves_control_ids_out": None}
            | {"test_control_ids_are_four_different_ids_of_the_vocabulary": None}
            | {"test_a_broken_state_is_refused_and_changes_nothing": None, "test_copies_encode_alike": "state"}
            | {"test_any_id_of_the_vocabulary_can_be_decoded": None},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and "." not in value else "",
)
def test_swapped_parts_hold_their_contracts(name, build, contract, tests, written):
    functions = runpy.run_path(str(CONTRACTS / contract))
    for test, argument in tests.items():
        torch.manual_seed(0)
        functions[test](*(x for x in (build(module(written, name)), argument) if x is not None))


def test_the_image_tokenizer_holds_its_contract(written):
    functions = runpy.run_path(str(CONTRACTS / "test_image_tokenizers.py"))
    tokenizer = module(written, "cosines").Cosines(16, 4, 2)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for test in ("test_decoded_images_stay_within_range", "test_noise_of_a_token_moves_that_token_alone"):
        functions[test](tokenizer, images)
    for test in ("test_shapes_are_as_stated", "test_mode_is_deterministic_and_noise_is_the_only_randomness"):
        functions[test](tokenizer, images)
    for test in ("test_precision_around_it_changes_nothing", "test_no_images_are_no_problem"):
        functions[test](tokenizer, images)
    exact = module(written, "cosines").Cosines(16, 4, 4)
    torch.testing.assert_close(exact.decode(exact.tokens(images)), images, rtol=0, atol=1e-5)


def test_a_clock_says_the_time(written):
    clocks = module(written, "clocks").Clocks("answer", "val")
    example = clocks[0]
    assert (example.answers, len(clocks), example.image.shape) == (("twelve 0",), 21, (3, 64, 64))
    assert clocks.score_text(example, "twelve 0") and next(clocks.texts()) == "what time is it? twelve 0"


# -- other code -----------------------------------------------------------------------------------------------------


def test_rows_of_own_pictures_are_rows(tmp_path, monkeypatch, capsys):
    (code,) = blocks("own_pictures.md", "json").values()
    tasks = [json.loads(line)["task"] for line in code.splitlines()]
    assert set(tasks) == set(TASKS)
    for line, task in zip(code.splitlines(), tasks, strict=True):
        assert parse(line.encode(), task, "0")
    monkeypatch.chdir(tmp_path)
    Path("data/own/images").mkdir(parents=True)
    for name in ("cat", "dog"):
        Image.new("RGB", (40, 30), "red").save(f"data/own/images/{name}.png")
    Path("data/own/train.jsonl").write_text(code)
    (check,) = re.findall(r"^ {4}unifluid (data check .+)$", page("own_pictures.md"), re.MULTILINE)
    assert main(shlex.split(check)) == 0
    assert "1" in capsys.readouterr().out


def test_yaml_overlays_the_default_run(tmp_path):
    overlays = [code for name in ("evaluate.md", "pretrained.md") for code in blocks(name, "yaml").values()]
    for i, code in enumerate(overlays):
        (tmp_path / f"{i}.yaml").write_text(code)
    files = [word for i in range(len(overlays)) for word in ("--config", str(tmp_path / f"{i}.yaml"))]
    config = trainer.settings([*DEMO, *files])
    assert len(overlays) == 2
    assert config["model"]["init_args"]["backbone"]["class_path"].endswith("HuggingFaceBackbone")
    classes = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert classes[-2:] == ["callbacks.FID", "callbacks.GenEval"]


def test_the_study_is_a_study(tmp_path, monkeypatch):
    (tmp_path / "width.yaml").write_text(blocks("compare.md", "yaml")["width.yaml"])
    monkeypatch.chdir(ROOT)
    assert set(read_study(str(tmp_path / "width.yaml"), []).arms) == {"width=64", "width=128"}
