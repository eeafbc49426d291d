"""What the tests of `unifluid serve` share: a tiny model, drawings that can be halted, a free port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import tiny
from toy import make_module

from unifluid.pipeline import Pipeline

TOKENS = 9  # of a picture


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_pipeline() -> Pipeline:
    module = make_module()
    module.configure_model()
    module.model.load_state_dict(tiny.model().state_dict())  # no zero weights left
    return Pipeline(module.eval())


@contextmanager
def holding(pipeline: Pipeline) -> Iterator[threading.Event]:
    """Every drawing halts after its second token, until the event that this gives is set."""
    head, go, drawn = pipeline.module.model.image_head, threading.Event(), []
    sample = head.sample

    def wait_and_sample(*args):
        drawn.append(1)
        assert len(drawn) % TOKENS != 3 or go.wait(60)
        return sample(*args)

    head.sample = wait_and_sample
    try:
        yield go
    finally:
        go.set()
        del head.sample  # the class's shows again
