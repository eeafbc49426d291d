"""serve: what the page's buttons do, without a browser, and the command."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import urllib.request
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from cli.runs import error_line
from cli.served import TOKENS, free_port, holding, make_pipeline
from PIL import Image

from datamodules.images import to_image
from unifluid.cli.main import main
from unifluid.page.work import Worker
from unifluid.pipeline import Pipeline
from unifluid.storage import save

gr = pytest.importorskip("gradio", reason="gradio is not installed")
CONTROLS = (False, 7, 2, 2.0, "linear", 0.8, "raster")  # seed, then steps, guidance, schedule, temperature, order
ME, OTHER = SimpleNamespace(session_hash="me"), SimpleNamespace(session_hash="other")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return make_pipeline()


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


def test_only_the_visitors_own_drawing_is_stopped(handlers, pipeline):
    with holding(pipeline) as go:
        drawing = handlers.draw(ME, "a cat", 1, *CONTROLS)
        next(drawing)
        handlers.stop(OTHER)
        handlers.stop(ME)
        go.set()
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
        ("draw", (ME, "a", 1, False, 0, 0, *CONTROLS[3:]), "steps must be a whole number of at least 1, got 0"),
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

    picture = to_image(tiny.image(1))
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "a.bmp")
    (tmp_path / "text").write_text("no picture")
    given = SimpleNamespace(path=str(tmp_path / "a.png"), orig_name="mine.png")
    assert read_upload(None) is None and (read_upload(given) == tiny.image(1)).all()
    for name, message in {"a.bmp": "<b>.png is BMP: convert", "text": "<b>.png is none of JPEG, PNG"}.items():
        with pytest.raises(gr.Error) as raised:
            read_upload(SimpleNamespace(path=str(tmp_path / name), orig_name="x/<b>.png"))
        assert message.replace("<b>", "&lt;b&gt;") in raised.value.message and "x/" not in raised.value.message


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
