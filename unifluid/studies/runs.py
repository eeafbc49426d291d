"""The runs of a study, one process each: what is done is not done again, what fails stops only what builds upon it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from unifluid.studies.plan import Run

STATE = "study.json"  # in a run's folder: its arguments, process, exit code and seconds
LOG = "log.txt"  # all it printed; whoever makes the run holds a lock on it
ERROR = "unifluid: error: "  # what the command line puts before a mistake
POLL = 0.2  # seconds


@dataclass
class Outcome:
    """How a run ended; `error` is its own last word, None where all went well."""

    run: Run
    seconds: float = 0.0
    error: str | None = None


def finished(run: Run) -> Outcome | None:
    """What an earlier process left, if that run came to its end."""
    state = state_of(run)
    return Outcome(run, state["seconds"]) if state and state["code"] == 0 else None


def run_all(runs: Sequence[Run], jobs: int) -> list[Outcome]:
    """Every run, `jobs` of them at once -> how each ended, in their order. Ctrl-C and SIGTERM stop them all; they save.

    A run that another process makes is waited for: another study shares it, or one that was killed has left it behind.
    """
    elsewhere: set[Path] = set()
    done = {run.folder: outcome for run in runs if (outcome := finished(run))}
    waiting, active = deque(run for run in runs if run.folder not in done), dict[Path, _Process]()
    bar = tqdm(total=len(runs), initial=len(done), desc="runs", unit="run", dynamic_ncols=True)
    with _sigterm_raised(), bar:
        try:
            while waiting or active:
                for _ in range(len(waiting)):
                    run = waiting.popleft()
                    broken = next((f for f in run.after if f in done and done[f].error), None)
                    if broken:
                        done[run.folder] = Outcome(run, error=f"{done[broken].run} failed, which it builds upon")
                        tqdm.write(f"{run}: left out, {done[run.folder].error}")
                        bar.update()
                    elif len(active) == jobs or not all(folder in done for folder in run.after):
                        waiting.append(run)
                    elif (log := _own_log(run)) is None:
                        waiting.append(run)
                        if run.folder not in elsewhere:
                            elsewhere.add(run.folder)
                            tqdm.write(f"{run}: waiting for {_maker(run)}, which makes it already ({run.folder})")
                    elif outcome := finished(run):  # elsewhere, meanwhile
                        log.close()
                        done[run.folder] = outcome
                        bar.update()
                    elif path := run.changed:
                        log.close()
                        done[run.folder] = Outcome(run, error=f"{path} was changed after the study had started")
                        tqdm.write(f"{run} failed: {done[run.folder].error}")
                        bar.update()
                    else:
                        active[run.folder] = _Process(run, jobs, log)
                if (names := " | ".join(str(process.run) for process in active.values())) != bar.postfix:
                    bar.set_postfix_str(names)
                time.sleep(POLL)
                for folder in [folder for folder, process in active.items() if process.ended]:
                    done[folder] = active.pop(folder).outcome()
                    if done[folder].error:
                        tqdm.write(f"{done[folder].run} failed: {done[folder].error} (all of it: {folder / LOG})")
                    bar.update()
        finally:
            if active:
                tqdm.write("stopping: runs save first, which may take a minute; the same command goes on from there")
            for process in active.values():
                process.stop()
            for process in active.values():
                process.wait()
    return [done[run.folder] for run in runs]


@contextmanager
def _sigterm_raised() -> Iterator[None]:
    """SIGTERM as an exception, which would else end this process and leave its runs behind."""

    def stop(*_: Any) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _own_log(run: Run) -> IO[bytes] | None:
    """The run's log, locked until it is closed here and the run's process, which inherits it, has ended; None where
    another process holds it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    log = (run.folder / LOG).open("ab")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return log
    except BlockingIOError:
        log.close()
        return None


def _maker(run: Run) -> str:
    process = (state_of(run) or {}).get("process")
    return f"process {process}" if process else "another process"


class _Process:
    """One run as a process of its own, with its share of the cores; what it prints goes to `log`."""

    def __init__(self, run: Run, jobs: int, log: IO[bytes]):
        self.run, self._log, self._start = run, log, time.monotonic()
        self._before = (state_of(run) or {"seconds": 0.0})["seconds"]  # of interrupted attempts
        self._logged = log.tell()  # by earlier attempts
        threads = str(max(1, (os.cpu_count() or 1) // jobs))
        environment = {"OMP_NUM_THREADS": threads} | os.environ if jobs > 1 else dict(os.environ)
        command = [sys.executable, "-m", "unifluid", *run.args]
        self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        self._write()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def outcome(self) -> Outcome:
        code = self._process.returncode
        error = None if code == 0 else self._last_words(code)
        self._write(code, error)
        self._log.close()
        return Outcome(self.run, self._seconds, error)

    def stop(self) -> None:
        """By SIGTERM: the run saves and ends."""
        self._process.terminate()

    def wait(self) -> None:
        """Until it has stopped; it may have come to its end before."""
        self._write(0 if self._process.wait() == 0 else None)
        self._log.close()

    def _last_words(self, code: int) -> str:
        """The error it printed, or its last line."""
        printed = (self.run.folder / LOG).read_bytes()[self._logged :].decode("utf-8", "replace").replace("\r", "\n")
        lines = [line.strip() for line in printed.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(ERROR)]
        return errors[-1].removeprefix(ERROR) if errors else f"exit code {code}: {(lines or [''])[-1]}"

    @property
    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def _write(self, code: int | None = None, error: str | None = None) -> None:
        state = {"run": str(self.run), "args": self.run.args, "process": self._process.pid}
        state |= {"code": code, "error": error, "seconds": round(self._seconds, 1)}
        put(self.run.folder / STATE, json.dumps(state, indent=2))


def put(path: Path, text: str) -> None:
    """A file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def state_of(run: Run) -> dict[str, Any] | None:
    """What is known of the last attempt: `code`, None while it runs or was interrupted; `seconds` of all attempts;
    `error`. None where there was none."""
    path = run.folder / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return state if {"code", "seconds"} <= state.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
