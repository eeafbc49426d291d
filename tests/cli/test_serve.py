"""serve: the page's callbacks without a browser, the command, and what a browser shows of it all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError

import numpy as np
import pytest
import tiny
import yaml
from browser import Browser, chromium, watched
from cli.runs import error_line
from PIL import Image
from toy import make_module

from unifluid.cli.main import main
from unifluid.cli.serve import sampling_of
from unifluid.decoding.images import ImageSampling
from unifluid.page.server import serving
from unifluid.page.work import Worker
from unifluid.pipeline import Pipeline
from unifluid.storage import save

gr = pytest.importorskip("gradio", reason="gradio is not installed")
TOKENS = 9
SIZE = {"width": 1200, "height": 1000}
CONTROLS = (False, 7, 2, 2.0, "linear", 0.8, "raster")  # seed, then steps, guidance, schedule, temperature, order
ME, OTHER = SimpleNamespace(session_hash="me"), SimpleNamespace(session_hash="other")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    module = make_module()
    module.configure_model()
    module.model.load_state_dict(tiny.model().state_dict())  # no zero weights left
    return Pipeline(module.eval())


@pytest.fixture
def held(pipeline, monkeypatch):
    """Every drawing halts after its second token, until the event that this gives is set."""
    head, go, drawn = pipeline.module.model.image_head, threading.Event(), []
    sample = head.sample

    def wait_and_sample(*args):
        drawn.append(1)
        assert len(drawn) % TOKENS != 3 or go.wait(60)
        return sample(*args)

    monkeypatch.setattr(head, "sample", wait_and_sample)
    yield go
    go.set()


@pytest.fixture
def handlers(pipeline):
    from unifluid.page.handlers import Handlers

    return Handlers(pipeline)


# -- without a browser ----------------------------------------------------------------------------------------------


def test_a_drawing_is_shown_token_by_token(handlers, pipeline):
    shown = list(handlers.draw(ME, " a cat ", 1, *CONTROLS))
    sampling = {"steps": 2, "guidance": 2.0, "schedule": "linear", "temperature": 0.8, "order": "raster"}
    [expected] = pipeline.generate("a cat", seed=7, **sampling)
    figure, picture, seed = shown[-1]
    assert np.array_equal(picture, expected) and seed == 7 and "seed 7" in figure and "Save" in figure
    assert len(shown) > 1 and f'max="{TOKENS}"' in shown[0][0] and not np.array_equal(shown[0][1], expected)


def test_a_new_seed_is_drawn_and_shown(handlers):
    seeds = {list(handlers.draw(ME, "a cat", 1, True, 7, *CONTROLS[2:]))[-1][2] for _ in range(2)}
    assert len(seeds) == 2 and 7 not in seeds


def test_candidates_and_edits(handlers, pipeline):
    sampling = {"steps": 2, "guidance": 2.0, "schedule": "linear", "temperature": 0.8}
    as_trained = (*CONTROLS[:-1], "as trained")
    figure, picture, _ = list(handlers.draw(ME, "a cat", 2, *as_trained))[-1]
    assert np.array_equal(picture, pipeline.generate("a cat", seed=7, candidates=2, **sampling)[0])
    _, picture, _ = list(handlers.edit(ME, tiny.image(1), "red", 1.5, *as_trained))[-1]
    assert np.array_equal(picture, pipeline.edit(tiny.image(1), "red", seed=7, source_guidance=1.5, **sampling)[0])


def test_texts_are_the_pipelines(handlers, pipeline, monkeypatch):
    assert handlers.describe(tiny.image(1), 1) == pipeline.caption(tiny.image(1))[0]
    monkeypatch.setattr(pipeline, "answer", lambda picture, question, beams: [f"{question} {beams}"])
    assert handlers.ask(tiny.image(1), " what? ", 2.0) == "what? 2"


def test_only_the_visitors_own_drawing_is_stopped(handlers, held):
    drawing = handlers.draw(ME, "a cat", 1, *CONTROLS)
    next(drawing)
    handlers.stop(OTHER)
    handlers.stop(ME)
    held.set()
    assert not any("Save" in figure for figure, _, _ in drawing)
    handlers.stop(ME)  # there is nothing to stop any more
    drawing = handlers.draw(ME, "a cat", 1, *CONTROLS)
    next(drawing)
    handlers.stop(OTHER)
    assert "Save" in list(drawing)[-1][0]


def test_what_nobody_waits_for_is_not_drawn_on():
    worker, drawn = Worker(), []

    def draw(watch):
        for token in range(1000):
            drawn.append(token)
            time.sleep(0.01)
            watch([Image.new("RGB", (1, 1))])

    drawing = worker.draw("me", draw)
    next(drawing)
    drawing.close()
    worker.alone(lambda: None)  # waits for its turn
    assert len(drawn) < 100


def test_one_request_at_a_time():
    worker, inside, most = Worker(), [], []

    def call():
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    threads = [threading.Thread(target=worker.alone, args=(call,)) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert most == [1] * 4


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("draw", (ME, "  ", 1, *CONTROLS), "the prompt is empty"),
        ("draw", (ME, None, 1, *CONTROLS), "the prompt is empty"),
        ("draw", (ME, "a" * 501, 1, *CONTROLS), "the prompt has 501 characters, the limit is 500"),
        ("draw", (ME, "a", 1, False, None, *CONTROLS[2:]), "the seed must be a whole number"),
        ("draw", (ME, "a", 1, False, 1.5, *CONTROLS[2:]), "the seed must be a whole number"),
        ("draw", (ME, "a", 1, False, -1, *CONTROLS[2:]), "the seed must be a whole number"),
        ("draw", (ME, "a", 1, False, 0, 0, *CONTROLS[3:]), "steps must be at least 1, got 0"),
        ("edit", (ME, None, "red", None, *CONTROLS), "there is no picture"),
        ("edit", (ME, tiny.image(0), "", None, *CONTROLS), "the instruction is empty"),
        ("describe", (None, 1), "there is no picture"),
        ("ask", (tiny.image(0), " ", 1), "the question is empty"),
    ],
)
def test_mistakes_are_said_in_one_line(handlers, name, arguments, message, capsys):
    with pytest.raises(gr.Error, match=message) as raised:
        made = getattr(handlers, name)(*arguments)
        next(made)
    assert "\n" not in raised.value.message and not raised.value.print_exception
    assert capsys.readouterr().err == ""


def test_a_bug_is_short_on_the_page_and_whole_in_the_terminal(handlers, monkeypatch, capsys):
    monkeypatch.setattr(handlers.pipeline, "generate", lambda *_, **__: 1 / 0)
    with pytest.raises(gr.Error, match="something went wrong; the terminal says what"):
        list(handlers.draw(ME, "a cat", 1, *CONTROLS))
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_uploads_are_read_by_our_own_reader(tmp_path):
    from unifluid.page.inputs import read_upload

    picture = Image.fromarray(tiny.image(1).permute(1, 2, 0).numpy())
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.bmp")
    (tmp_path / "text").write_text("no picture")
    given = SimpleNamespace(path=str(tmp_path / "a.png"), orig_name="mine.png")
    assert read_upload(None) is None and (read_upload(given) == tiny.image(1)).all()
    for name, message in {"a.bmp": "<b>.png is BMP: convert", "text": "<b>.png is none of JPEG, PNG"}.items():
        with pytest.raises(gr.Error) as raised:
            read_upload(SimpleNamespace(path=str(tmp_path / name), orig_name="x/<b>.png"))
        assert message.replace("<b>", "&lt;b&gt;") in raised.value.message and "x/" not in raised.value.message


def test_controls_stand_where_the_run_drew_its_samples(tmp_path):
    assert sampling_of(tmp_path) == ImageSampling(steps=50, guidance=3.0, schedule="linear", temperature=0.8)
    callbacks = [{"class_path": "a.B", "init_args": {}}, {"class_path": "a.C", "init_args": {"sampling": {"steps": 9}}}]
    (tmp_path / "config.yaml").write_text(yaml.dump({"trainer": {"callbacks": callbacks}}))
    assert sampling_of(tmp_path).steps == sampling_of(tmp_path / "last.ckpt").steps == 9
    (tmp_path / "config.yaml").write_text("trainer: {callbacks: true}")
    assert sampling_of(tmp_path).steps == 50


# -- the command ----------------------------------------------------------------------------------------------------


def test_what_hinders_the_page_is_one_line(tmp_path, capsys, monkeypatch):
    serve = ["serve", "--ckpt", tmp_path / "none.ckpt", "--port"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 cannot be used: " in error_line(capsys, *serve, port)
    assert "port 99999 of 127.0.0.1 cannot be used" in error_line(capsys, *serve, 99999)
    assert "none.ckpt" in error_line(capsys, *serve, free_port())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert error_line(capsys, *serve, 1) == "the page needs gradio: pip install 'unifluid[serve]'"


def test_the_command_says_one_line_and_leaves_nothing(pipeline, tmp_path, monkeypatch, capfd):
    content = {"state_dict": pipeline.module.state_dict()}
    pipeline.module.on_save_checkpoint(content)
    save(content, tmp_path / "run" / "last.ckpt")
    for name in ("temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("GRADIO_SHARE", "True")
    port, seen, printed = free_port(), [], []

    def visit_and_interrupt():
        for _ in range(600):
            with contextlib.suppress(OSError):
                seen.append(urllib.request.urlopen(f"http://127.0.0.1:{port}").read())
                break
            time.sleep(0.1)
        seen.extend((tmp_path / "temporary").glob("unifluid-*"))
        while not printed[-1:] == ["\n"]:
            printed.extend(capfd.readouterr().out)
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    with handling(
        SIGINT=signal.default_int_handler, SIGTERM=signal.SIG_DFL
    ):  # a suite in the background ignores Ctrl-C
        threading.Thread(target=visit_and_interrupt, daemon=True).start()
        flags = ["--ckpt", str(tmp_path / "run"), "--allow-module", "tiny", "--device", "cpu", "--port", str(port)]
        assert main(["serve", *flags]) == 130
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    assert b"unifluid" in seen[0] and len(seen) == 2
    line = "".join(printed)
    assert line.startswith(f"http://127.0.0.1:{port} serves {tmp_path.name}/run, raw weights, ")
    assert line.count("\n") == 1 and "Ctrl-C" in line and capfd.readouterr() == ("", "")
    assert [*(tmp_path / "temporary").glob("unifluid-*"), *(tmp_path / "here").iterdir()] == []


@contextlib.contextmanager
def handling(**handlers):
    before = {name: signal.signal(getattr(signal, name), handler) for name, handler in handlers.items()}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


# -- in a browser ---------------------------------------------------------------------------------------------------


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
    Image.fromarray(tiny.image(seed, size=20).permute(1, 2, 0).numpy()).save(path)
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
