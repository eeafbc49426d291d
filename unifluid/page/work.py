"""The model at work for many visitors, one request at a time; drawings can be watched and stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

from PIL import Image

Draw = Callable[..., list[Image.Image]]  # the pipeline's generate or edit, with all arguments but `watch`
T = TypeVar("T")


class Stopped(Exception):
    """A drawing that nobody wants any more."""


@dataclass(frozen=True)
class Frame:
    """A picture on its way. `tokens`: how many have been drawn, over all candidates; None: it is finished."""

    picture: Image.Image
    tokens: int | None = None


class Worker:
    """Runs calls of a pipeline. `visitor` says whose drawing it is, so that they alone can stop it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._drawings: dict[str, threading.Event] = {}

    def alone(self, call: Callable[[], T]) -> T:
        """Make a call while no other is being made."""
        with self._turn:
            return call()

    def draw(self, visitor: str, draw: Draw) -> Iterator[Frame]:
        """Frames as they come, the finished picture last; none after `stop(visitor)` or once the iterator is closed.

        Where the consumer is slower than the model, frames are left out. Raises what `draw` raises.
        """
        stop = self._drawings[visitor] = threading.Event()
        made: SimpleQueue[Frame | Exception] = SimpleQueue()
        # A thread, since the pipeline calls back; a daemon, since the end of the program waits for no picture.
        thread = threading.Thread(target=self._draw, args=(draw, stop, made), daemon=True)
        thread.start()
        try:
            frame = None
            while not isinstance(frame, Frame) or frame.tokens is not None:
                frame = newest(made)
                if isinstance(frame, Stopped):
                    return
                if isinstance(frame, Exception):
                    raise frame
                yield frame
        finally:
            stop.set()
            if self._drawings.get(visitor) is stop:
                del self._drawings[visitor]

    def _draw(self, draw: Draw, stop: threading.Event, made: SimpleQueue[Frame | Exception]) -> None:
        tokens = 0

        def watch(pictures: list[Image.Image]) -> None:
            nonlocal tokens
            if stop.is_set():
                raise Stopped
            tokens += 1
            made.put(Frame(pictures[0], tokens))

        try:
            with self._turn:
                made.put(Frame(draw(watch=watch)[0]))
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for the picture
            made.put(error)

    def stop(self, visitor: str) -> None:
        """End that visitor's drawing, if there is one, at its next token."""
        if drawing := self._drawings.get(visitor):
            drawing.set()

    def stop_all(self) -> None:
        for visitor in list(self._drawings):
            self.stop(visitor)


def newest(queue: SimpleQueue) -> object:
    """Waits for something in `queue` -> the last that is in it."""
    item = queue.get()
    while True:
        try:
            item = queue.get_nowait()
        except Empty:
            return item
