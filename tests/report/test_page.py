"""The page of real, tiny runs: every number is a file's, nothing is fetched, and it looks as it should in a browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from browser import chromium
from cli.runs import fit_arguments
from PIL import Image

from unifluid.cli.main import main
from unifluid.report import Section, write_page
from unifluid.report.charts import style, svg
from unifluid.report.page import inlined

ANSWERS = {"class_path": "datamodules.shapes.Shapes", "init_args": {"task": "answer"}}
CALLBACKS = [
    {"class_path": "callbacks.EMA"},
    {"class_path": "callbacks.QuestionAccuracy", "init_args": {"dataset": ANSWERS, "n": 6, "every": 3}},
    {"class_path": "callbacks.SampleGrid", "init_args": {"datasets": [ANSWERS], "n": 1}},
    {"class_path": "callbacks.Throughput", "init_args": {"every": 2}},
    {"class_path": "callbacks.TrainSeconds"},
]
NASTY = '<script>alert("$1$")</script>'


class Page(HTMLParser):
    """Tables by the heading above them, attributes of every element, and all text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tables: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._heading, self._rows, self._open = "", "", [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)
        if tag in ("h1", "h2", "h3"):
            self._heading = ""
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass
        if tag == "table":
            head, *rows = self._rows
            self.tables[self._heading] |= {
                (row[0], name): cell for row in rows for name, cell in zip(head[1:], row[1:], strict=True)
            }

    def handle_data(self, data):
        self.text += data
        if {"h1", "h2", "h3"} & set(self._open):
            self._heading += data
        elif {"td", "th"} & set(self._open):
            self._rows[-1][-1] += f" {data.strip()}" if "small" in self._open else data.strip()

    def cell(self, heading: str, one: str, other: str) -> str:
        """Whichever of the two is the row."""
        table = self.tables[heading]
        return table[one, other] if (one, other) in table else table[other, one]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """One that was trained, one that differs in λ, and one without scores."""
    root = tmp_path_factory.mktemp("runs")
    (root / "more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": CALLBACKS, "val_check_interval": 2}}))
    assert (
        main(fit_arguments(root / "one", "--config", f"{root}/more.yaml", "--trainer.check_val_every_n_epoch=null"))
        == 0
    )
    shutil.copytree(root / "one", root / "two")
    change(root / "two", lam=0.25)
    (root / "three").mkdir()
    shutil.copy(root / "one" / "config.yaml", root / "three")
    return [root / "one", root / "two", root / "three"]


def change(folder: Path, **arguments: float) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"] |= arguments
    path.write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> Path:
    """With a section and a label that would do harm if they were not escaped."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure((3, 2))
        figure.add_subplot().plot([1, 2], [1, 2])
        drawn = svg(figure)
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    section = Section("Verdict", f"It holds. {NASTY}", [["arm", NASTY], ["a", "1 ± 2"]], drawn)
    write_page(runs, path, f"A study {NASTY}", [section], [NASTY, "b", "b"])
    return path


def test_scores_are_those_of_the_file(runs, page):
    shown, scores = Page(page), json.loads((runs[0] / "scores.json").read_text())
    names = [key.removeprefix("n/qa/") for key in scores if key.startswith("n/qa/")]
    assert len(names) > 3
    for name in names:
        value, low, high = (scores[f"qa/{name}{end}"] for end in ("", "/low", "/high"))
        expected = f"{value:.3f} {low:.3f} – {high:.3f}, n {scores[f'n/qa/{name}']}"
        assert shown.cell("qa", NASTY, name) == expected
    assert shown.cell("qa", NASTY, "weights") == "ema" and shown.cell("qa", NASTY, "step") == "6"
    assert "No scores yet: b · three." in shown.text
    assert shown.cell("Runs", NASTY, "last step") == "6" and shown.cell("Runs", "b · three", "last step") == "–"


def test_settings_that_differ_are_shown_and_the_others_apart(page):
    shown = Page(page)
    table = shown.tables["What differs"]
    assert len(table) == 3
    assert shown.cell("What differs", "b · two", "model.init_args.lam") == "0.25"
    assert shown.cell("What differs", NASTY, "model.init_args.lam") == "0.005"
    assert "trainer.callbacks.QuestionAccuracy.init_args.every" in shown.text


def test_curves_and_pictures_are_there(runs, page):
    shown, scores = Page(page), json.loads((runs[0] / "scores.json").read_text())
    titles = ("qa/accuracy (ema)", "train/text", "train/visual", "val/caption")
    assert all(title in shown.text for title in titles)
    assert "throughput/tokens" not in shown.text and "gradient_norm" not in shown.text
    charts = sum(key.startswith("n/") for key in scores) + len(["text", "visual", "caption", "generate", "val"])
    assert sum(tag == "svg" for tag, _ in shown.elements) == 1 + charts  # the section's own
    words = [attributes["alt"] for tag, attributes in shown.elements if tag == "img"]
    assert sorted(words) == sorted([f"{name} of {run}" for name in ("samples", "qa") for run in (NASTY, "b · two")])


def test_nothing_is_fetched_and_nothing_of_the_users_is_markup(page):
    shown = Page(page)
    assert "http://" not in page.read_text() and "https://" not in page.read_text()
    assert not {"script", "link", "iframe", "object", "image"} & {
        tag for tag, a in shown.elements if a.get("href") != "data:,"
    }
    references = [a[name] for _, a in shown.elements for name in ("src", "href", "srcset") if a.get(name)]
    assert references and all(reference.startswith(("data:", "#")) for reference in references)
    assert shown.text.count(NASTY) >= 5 and shown.cell("Verdict", "a", NASTY) == "1 ± 2"


def test_ids_are_used_once_and_references_lead_somewhere(page):
    elements = Page(page).elements
    ids = [a["id"] for _, a in elements if a.get("id")]
    assert len(ids) == len(set(ids))
    uses = {a["href"].removeprefix("#") for _, a in elements if (a.get("href") or "").startswith("#")}
    clips = {a["clip-path"][5:-1] for _, a in elements if a.get("clip-path")}
    assert clips and uses and uses | clips <= set(ids)


def test_large_pictures_are_reduced(tmp_path):
    Image.new("RGB", (400, 100), "red").save(tmp_path / "large.png")
    for pixels, size in ((40_000, (400, 100)), (10_000, (200, 50)), (1, (2, 1))):
        data = inlined(tmp_path / "large.png", pixels).removeprefix("data:image/webp;base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == size


def test_what_is_no_picture_is_named_and_the_old_page_stays(runs, tmp_path):
    folder = shutil.copytree(runs[2], tmp_path / "run")
    out = tmp_path / "page.html"
    write_page([folder], out)
    before = out.read_text()
    (folder / "samples.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"samples.png: no picture that can be read"):
        write_page([folder], out)
    assert out.read_text() == before and [p.name for p in tmp_path.iterdir() if p.is_file()] == ["page.html"]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 400)])
def test_a_browser_shows_it_all(page, scheme, width, tmp_path):
    with chromium(width, 900, scheme) as browser:
        browser.page.goto(page.as_uri())
        assert browser.errors == browser.failed == browser.broken_pictures() == []
        assert [address for address in browser.requested if not address.startswith("data:")] == [page.as_uri()]
        assert browser.page.evaluate("document.documentElement.scrollWidth") == width
        shot = tmp_path / "shot.png"
        browser.page.screenshot(path=shot)
        with Image.open(shot) as image:
            assert (min(image.convert("RGB").getpixel((2, 2))) > 200) == (scheme == "light")
        label = browser.page.locator(".sheets label").first
        before = label.locator("img").bounding_box()["width"]
        label.click()
        assert label.locator("img").bounding_box()["width"] > 1.2 * before
