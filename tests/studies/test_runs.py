"""Runs as processes: none is made twice, none is lost, and a failed one stops only what builds upon it.

A stand-in takes the place of `python -m unifluid`: it does what a file in the run's folder says.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from unifluid.studies import runs as module
from unifluid.studies.plan import Run
from unifluid.studies.runs import LOG, STATE, Outcome, finished, run_all, state_of
from unifluid.studies.study import Entry

REAL_PYTHON = sys.executable
STAND_IN = """#!{python}
import pathlib, signal, sys, time
folder = pathlib.Path(next(a for a in sys.argv if a.startswith("--folder=")).removeprefix("--folder="))
assert sys.argv[1:4] == ["-m", "unifluid", "fit"]
with (folder / "tries").open("a") as file:
    file.write("x")
signal.signal(signal.SIGTERM, lambda *_: ((folder / "saved").write_text("all"), sys.exit(143)))
exec((folder / "does").read_text())
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text(STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(module, "POLL", 0.01)


def make(tmp_path, name, does="pass", after=()):
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "does").write_text(does)
    args = ("fit", f"--folder={folder}")
    return Run(Entry(name), 0, folder, args, tuple(run.folder for run in after), None)


def tries(run):
    path = run.folder / "tries"
    return len(path.read_text()) if path.exists() else 0


def state(run):
    return json.loads((run.folder / STATE).read_text())


def errors(runs, jobs=1):
    return [outcome.error for outcome in run_all(runs, jobs)]


def test_what_is_done_is_not_done_again(tmp_path):
    first = make(tmp_path, "first", "time.sleep(0.12); print('well done')")
    second = make(tmp_path, "second", after=[first])
    assert finished(first) is None
    outcomes = run_all([first, second], 1)
    assert [outcome.run for outcome in outcomes] == [first, second] and not any(o.error for o in outcomes)
    assert finished(first) == Outcome(first, state(first)["seconds"]) and 0.1 <= state(first)["seconds"] < 10
    assert state(first) == {**state(first), "run": "first, seed 0", "args": list(first.args), "code": 0, "error": None}
    assert (first.folder / LOG).read_text() == "well done\n"
    third = make(tmp_path, "third", after=[second])
    again = run_all([first, second, third], 1)
    assert [tries(run) for run in (first, second, third)] == [1, 1, 1]
    assert [outcome.seconds for outcome in again[:2]] == [state(run)["seconds"] for run in (first, second)]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"code": 0}'])
def test_a_damaged_state_is_no_finished_run(content, tmp_path):
    run = make(tmp_path, "run")
    (run.folder / STATE).write_text(content)
    assert finished(run) is None and errors([run]) == [None] and tries(run) == 1


def test_a_failed_run_stops_only_what_builds_upon_it(tmp_path, capsys):
    one_line = "print('Epoch 3', end=chr(13)); print('unifluid: error: lam must be above 0'); print('bye'); sys.exit(2)"
    bad = make(tmp_path, "bad", one_line)
    on_bad = make(tmp_path, "on bad", after=[bad])
    on_that = make(tmp_path, "on that", after=[on_bad])
    good = make(tmp_path, "good")
    on_good = make(tmp_path, "on good", after=[good])
    crash = make(tmp_path, "crash", "raise KeyError('x')")
    killed = make(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)")
    found = errors([bad, on_bad, on_that, good, on_good, crash, killed])
    assert found == [
        "lam must be above 0",
        "bad, seed 0 failed, which it builds upon",
        "on bad, seed 0 failed, which it builds upon",
        None,
        None,
        "exit code 1: KeyError: 'x'",
        "exit code -9: ",
    ]
    assert [tries(run) for run in (bad, on_bad, on_that, good, on_good)] == [1, 0, 0, 1, 1]
    assert state(bad)["error"] == "lam must be above 0" and finished(bad) is None
    told = capsys.readouterr()
    assert f"bad, seed 0 failed: lam must be above 0 (all of it: {bad.folder / LOG})" in told.out + told.err


def test_what_failed_is_tried_again_with_its_own_words(tmp_path):
    run = make(tmp_path, "run", "print('unifluid: error: no space left'); sys.exit(2)")
    on_it = make(tmp_path, "on it", after=[run])
    errors([run, on_it])
    make(tmp_path, "run", "raise ZeroDivisionError('mended, but not well')")
    assert errors([run, on_it])[0] == "exit code 1: ZeroDivisionError: mended, but not well"
    make(tmp_path, "run")
    assert errors([run, on_it]) == [None, None]
    assert tries(run) == 3 and tries(on_it) == 1 and "no space left" in (run.folder / LOG).read_text()


def interrupt_when(ready):
    """Ctrl-C for this process as soon as `ready` holds."""

    def wait():
        while not ready():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


@pytest.fixture
def interruptible():
    """A suite in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_study_goes_on(tmp_path, interruptible):
    done = make(tmp_path, "done")
    wait = "(folder / 'started').write_text(''); time.sleep(60)"
    slow, other = make(tmp_path, "slow", wait), make(tmp_path, "other", wait)
    late = make(tmp_path, "late", after=[slow])
    run_all([done], 1)
    interrupt_when(lambda: all((run.folder / "started").exists() for run in (slow, other)))
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all([done, slow, other, late], 2)
    assert time.monotonic() - start < 30
    for run in (slow, other):
        assert (run.folder / "saved").read_text() == "all", "it was given the time to save"
        assert state(run)["code"] is None and state(run)["error"] is None and finished(run) is None
        make(tmp_path, run.entry.name)
    (slow.folder / STATE).write_text(json.dumps(state(slow) | {"seconds": 50.0}))
    assert errors([done, slow, other, late], 2) == [None] * 4
    assert [tries(run) for run in (done, slow, other, late)] == [1, 2, 2, 1]
    assert 50 <= state(slow)["seconds"] < 80, "seconds are those of all attempts"


def test_a_run_that_ended_just_before_the_interruption_is_done(tmp_path, monkeypatch):
    run = make(tmp_path, "run")

    def interrupted(_):
        os.waitid(os.P_PID, children[0].pid, os.WEXITED | os.WNOWAIT)
        raise KeyboardInterrupt

    children, popen = [], module.subprocess.Popen
    monkeypatch.setattr(module.subprocess, "Popen", lambda *a, **k: children.append(popen(*a, **k)) or children[0])
    monkeypatch.setattr(module.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all([run], 1)
    assert finished(run)


def test_as_many_run_at_once_as_asked_for(tmp_path, monkeypatch):
    """Each waits until it has seen the other, which is only there at the same time."""
    meet = "import os; (folder / 'here').write_text(os.environ.get('OMP_NUM_THREADS', 'all'))\n"
    meet += "other = folder.parent / {other!r} / 'here'\nend = time.time() + 20\n"
    meet += "while not other.exists() and time.time() < end: time.sleep(0.01)\nsys.exit(not other.exists())"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    a, b = (make(tmp_path, name, meet.format(other=other)) for name, other in ("ab", "ba"))
    assert errors([a, b], 2) == [None, None]
    assert (a.folder / "here").read_text() == "4", "they share the cores"


def test_no_more_run_at_once_than_asked_for(tmp_path):
    alone = "place = folder.parent / 'busy'\nassert not place.exists(), 'not alone'\nplace.write_text('')\n"
    alone += "time.sleep(0.05)\nplace.unlink()"
    assert errors([make(tmp_path, name, alone) for name in "abc"], 1) == [None] * 3


def test_a_run_waits_for_what_it_builds_upon_while_others_go_on(tmp_path):
    until = "end = time.time() + 20\nwhile not (folder.parent / 'third' / 'ran').exists() and time.time() < end:\n"
    first = make(tmp_path, "first", f"{until}    time.sleep(0.01)\n(folder / 'last.ckpt').write_text('')")
    second = make(tmp_path, "second", "open(folder.parent / 'first' / 'last.ckpt')", after=[first])
    third = make(
        tmp_path,
        "third",
        "(folder / 'ran').write_text('')\nassert not (folder.parent / 'first' / 'last.ckpt').exists()",
    )
    assert errors([first, second, third], 2) == [None] * 3


BEHIND = """
import json, sys
from pathlib import Path
from unifluid.studies.plan import Run
from unifluid.studies.runs import run_all
from unifluid.studies.study import Entry
program, folder = sys.argv[1:]
sys.executable = program
run_all([Run(Entry("run"), 0, Path(folder), ("fit", f"--folder={folder}"), (), None)], 1)
"""


@contextmanager
def study_elsewhere(run):
    """Another process, in which a study makes the run."""
    process = subprocess.Popen([REAL_PYTHON, "-c", BEHIND, sys.executable, str(run.folder)], stderr=subprocess.DEVNULL)
    try:
        while state_of(run) is None:
            assert process.poll() is None
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


UNTIL_TOLD = "end = time.time() + 30\nwhile not (folder / 'go').exists() and time.time() < end: time.sleep(0.01)"


def go_when_waiting(run, monkeypatch):
    """Lets the run end as soon as a study says that it waits; what it has said."""
    said = []
    monkeypatch.setattr(module.tqdm, "write", lambda text: (said.append(text), (run.folder / "go").write_text("")))
    return said


def test_what_another_study_makes_is_waited_for(tmp_path, monkeypatch):
    run = make(tmp_path, "run", UNTIL_TOLD)
    on_it = make(tmp_path, "on it", after=[run])
    said = go_when_waiting(run, monkeypatch)
    with study_elsewhere(run):
        child = state(run)["process"]
        assert errors([run, on_it], 2) == [None, None]
    assert tries(run) == 1 and tries(on_it) == 1
    assert said == [f"run, seed 0: waiting for process {child}, which makes it already ({run.folder})"]


def test_a_killed_study_leaves_a_run_behind_which_is_waited_for(tmp_path, monkeypatch):
    run = make(tmp_path, "run", "(folder / 'alone').mkdir()\n" + UNTIL_TOLD + "\n(folder / 'alone').rmdir()")
    said = go_when_waiting(run, monkeypatch)
    with study_elsewhere(run) as study:
        study.kill()
        study.wait()
        assert errors([run]) == [None], "the one left behind was let go to its end before"
    assert len(said) == 1 and tries(run) == 2 and finished(run)


def test_a_study_that_is_terminated_stops_its_runs(tmp_path):
    run = make(tmp_path, "run", "(folder / 'started').write_text(''); time.sleep(60)")
    with study_elsewhere(run) as study:
        while not (run.folder / "started").exists():
            time.sleep(0.01)
        study.terminate()
        assert study.wait() == 143
    assert (run.folder / "saved").read_text() == "all" and state(run)["code"] is None


def test_a_config_that_changes_under_way_is_not_taken_for_the_old_one(tmp_path):
    """A study takes hours; its folders are named after what the files held when it began."""
    config, comment = tmp_path / "config.yaml", tmp_path / "comment.yaml"
    config.write_text("lam: 1")
    comment.write_text("lam: 1")
    change = f"open({str(config)!r}, 'w').write('lam: 2'); open({str(comment)!r}, 'a').write('  # as before')"
    first = make(tmp_path, "first", change)
    second, third = (
        replace(make(tmp_path, path.stem, after=[first]), configs={str(path): {"lam": 1}}) for path in (config, comment)
    )
    assert errors([first, second, third]) == [None, f"{config} was changed after the study had started", None]
    assert (tries(second), tries(third)) == (0, 1)
    config.unlink()
    assert errors([first, second]) == [None, f"{config} was changed after the study had started"]
