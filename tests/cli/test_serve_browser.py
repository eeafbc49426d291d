"""What a browser shows of `unifluid serve`."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest
import tiny
from browser import Browser, chromium, watched
from cli.served import TOKENS, free_port, holding, make_pipeline

from datamodules.images import to_image
from unifluid.decoding import ImageSampling
from unifluid.page.server import serving
from unifluid.pipeline import Pipeline

pytest.importorskip("gradio", reason="gradio is not installed")
SIZE = {"width": 1200, "height": 1000}


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return make_pipeline()


@pytest.fixture
def held(pipeline):
    with holding(pipeline) as go:
        yield go


@pytest.fixture(scope="module")
def address(pipeline, tmp_path_factory):
    """One server for all tests; what a variable might open stays shut."""
    secret = tmp_path_factory.mktemp("secret") / "secret.txt"
    secret.write_text("secret")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ALLOWED_PATHS", str(secret.parent))
        sampling = ImageSampling(steps=2, guidance=2.0, schedule="linear")
        with serving(pipeline, "a tiny model", sampling, free_port(), waiting=1, megabytes=1) as served:
            with pytest.raises(HTTPError, match="403"):
                urllib.request.urlopen(f"{served}/gradio_api/file={secret}")
            yield served


@pytest.fixture(scope="module")
def context():
    """One visitor's browser, whose cache spares all tests but the first most of the loading."""
    with chromium() as opened, opened.page.context.browser.new_context(viewport=SIZE) as context:
        context.set_default_timeout(60_000)  # a busy machine loads gradio's scripts slowly
        yield context


@pytest.fixture
def browser(context, address):
    """The page in a browser, which asks nobody but the server for anything."""
    seen = watched(context.new_page())
    enter(seen.page, address)
    yield seen
    seen.page.close()
    strangers = [url for url in seen.requested if not url.startswith((f"{address}/", "data:", "blob:"))]
    assert strangers == [] and len(seen.requested) > 5


def enter(page, address):
    page.goto(address)
    button(page, "Draw").wait_for()
    return page


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def draw(page, prompt: str) -> None:
    page.get_by_label("Prompt").fill(prompt)
    button(page, "Draw").click()


def source(page, place: str = "#draw-drawing") -> str:
    return page.locator(f"{place} img").get_attribute("src")


def finished(page, place: str = "#draw-drawing") -> str:
    page.locator(f"{place} a[download]").wait_for()
    return source(page, place)


def said(page, text: str) -> None:
    page.get_by_test_id("toast-body").filter(has_text=text).first.wait_for()


def send_file(page, tab: str, name: str, data: bytes) -> None:
    file = {"name": name, "mimeType": "image/png", "buffer": data}
    page.locator(f"#{tab}-picture input[type=file]").set_input_files(file)


def png(seed: int, path: Path) -> bytes:
    to_image(tiny.image(seed, size=20)).save(path)
    return path.read_bytes()


def value(page, label: str) -> str:
    """Of a text field, once it has one."""
    field = page.get_by_label(label)
    from playwright.sync_api import expect

    expect(field).not_to_have_value("", timeout=60_000)
    return field.input_value()


def test_a_picture_appears_and_is_sent_on(browser: Browser, held):
    page = browser.page
    button(page, "Ask about it").click()
    said(page, "there is no picture yet: draw one first")
    page.get_by_text("three green triangles").first.click()
    assert value(page, "Prompt") == "three green triangles"
    button(page, "Draw").click()
    page.get_by_text(f"2 of {TOKENS}").wait_for()
    half = source(page)
    held.set()
    whole = finished(page)
    assert half != whole
    assert page.locator("#draw-drawing img").evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
    button(page, "Describe it").click()
    assert value(page, "Description")
    page.get_by_role("tab", name="Draw").click()
    button(page, "Edit it").click()
    page.get_by_label("Instruction").fill("make it red")
    button(page, "Edit").click()
    assert finished(page, "#edit-drawing") != whole
    button(page, "Ask about it").click()
    page.get_by_label("Question").fill("what is it?")
    button(page, "Ask").click()
    assert value(page, "Answer")
    assert browser.errors == []


def test_uploads_are_described_or_refused_in_one_line(browser: Browser, tmp_path, pipeline):
    page = browser.page
    page.get_by_role("tab", name="Describe").click()
    send_file(page, "describe", "bad.png", b"no picture")
    said(page, "bad.png is none of JPEG, PNG, WEBP, GIF")
    page.locator("#describe-picture").get_by_text("Drop Image Here").wait_for()
    send_file(page, "describe", "large.png", bytes(2_000_000))
    said(page, "exceed the maximum allowed size")
    page.locator("#describe-picture").get_by_text("Drop Image Here").wait_for()
    button(page, "Describe").click()
    said(page, "there is no picture: drop one in")
    send_file(page, "describe", "good.png", png(3, tmp_path / "good.png"))
    page.locator("#describe-picture img.crisp").wait_for()
    button(page, "Describe").click()
    assert value(page, "Description") == pipeline.caption(tmp_path / "good.png")[0]


def test_stop_ends_a_drawing(browser: Browser, held):
    page = browser.page
    draw(page, "a cat")
    page.get_by_text(f"2 of {TOKENS}").wait_for()
    with page.expect_response("**/run/predict"):
        button(page, "Stop").click()
    half = source(page)
    held.set()
    page.wait_for_timeout(500)
    assert source(page) == half and page.locator("#draw-drawing a").count() == 0
    draw(page, "a dog")  # and the next is drawn as ever
    assert finished(page) != half


def test_two_draw_at_once_and_a_third_is_refused(browser: Browser, context, address, held):
    """The queue holds one that waits; who stops waiting makes room."""
    page, waiting = browser.page, enter(context.new_page(), address)
    other = enter(context.browser.new_context(viewport=SIZE).new_page(), address)
    draw(page, "a cat")
    page.get_by_text(f"2 of {TOKENS}").wait_for()
    for late, prompt in ((waiting, "a bird"), (other, "a dog")):
        with late.expect_response("**/queue/join*"):
            draw(late, prompt)
    said(other, "currently busy")
    with waiting.expect_response("**/cancel"):
        button(waiting, "Stop").click()
    with other.expect_response("**/queue/join*") as joined:
        button(other, "Draw").click()
    assert joined.value.ok
    held.set()
    assert finished(page) != finished(other)
    assert [p.locator("#draw-drawing img").get_attribute("alt") for p in (page, other)] == ["a cat", "a dog"]
    assert waiting.locator("#draw-drawing img").count() == 0
