"""What the buttons do: a method is a request, which checks its inputs and then has the model to itself."""

from __future__ import annotations

import base64
import html
import io
import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from unifluid.page import inputs
from unifluid.page.work import Draw, Frame, Worker
from unifluid.pipeline import Pipeline

SHOWN = 448  # pixels that small pictures are enlarged to, by a whole factor
CONTROLS = ("steps", "guidance", "schedule", "temperature", "order")  # of every drawing, after those of the seed
AS_TRAINED = "as trained"  # the order that is none of the model's options
NEW_SEEDS = 10**6  # of which new ones are drawn: short enough to be copied by hand
EMPTY = '<figure class="drawn"><div class="empty">The picture appears here, token by token.</div></figure>'

# What a drawing shows at every token: the figure, the picture in it, the seed.
Shown = tuple[str, Image.Image, int]


class Handlers:
    def __init__(self, pipeline: Pipeline):
        self.pipeline, self.worker = pipeline, Worker()

    def draw(self, request: gr.Request, prompt: str, candidates: int, *controls: Any) -> Iterator[Shown]:
        with inputs.told():
            words, how = inputs.text(prompt, "prompt"), {"candidates": int(candidates)}
            yield from self._draw(request, partial(self.pipeline.generate, words), words, how, *controls)

    def edit(
        self,
        request: gr.Request,
        picture: Tensor | None,
        instruction: str,
        source_guidance: float | None,
        *controls: Any,
    ) -> Iterator[Shown]:
        with inputs.told():
            source, words = inputs.picture(picture), inputs.text(instruction, "instruction")
            how = {"source_guidance": source_guidance}
            yield from self._draw(request, partial(self.pipeline.edit, source, words), words, how, *controls)

    def _draw(
        self,
        request: gr.Request,
        draw: Draw,
        words: str,
        sampling: dict[str, Any],
        new_seed: bool,
        seed: float | None,
        *controls: Any,
    ) -> Iterator[Shown]:
        """The rest of a drawing; `controls` are the values of the page's `CONTROLS`."""
        sampling |= {name: value for name, value in zip(CONTROLS, controls, strict=True) if value != AS_TRAINED}
        seed = random.randrange(NEW_SEEDS) if new_seed else inputs.seed(seed)
        steps = self.pipeline.sampling.rounds or self.pipeline.module.model.image_tokenizer.num_tokens
        tokens = steps * sampling.get("candidates", 1)
        started = time.monotonic()
        for frame in self.worker.draw(request.session_hash, partial(draw, seed=seed, **sampling)):
            seconds = time.monotonic() - started
            yield figure(frame, words, tokens, f"seed {seed} · {seconds:.1f} s"), frame.picture, seed

    def describe(self, picture: Tensor | None, beams: int) -> str:
        with inputs.told():
            return self.worker.alone(partial(self.pipeline.caption, inputs.picture(picture), beams=int(beams)))[0]

    def ask(self, picture: Tensor | None, question: str, beams: int) -> str:
        with inputs.told():
            asked = inputs.picture(picture), inputs.text(question, "question")
            return self.worker.alone(partial(self.pipeline.answer, *asked, beams=int(beams)))[0]

    def stop(self, request: gr.Request) -> None:
        """For the Stop buttons, and for a page that was closed."""
        self.worker.stop(request.session_hash)


def send(picture: Image.Image | None, tab: str) -> tuple[Any, Image.Image]:
    """A drawn picture on its way to the input of another tab, which is shown -> (tabs, picture)."""
    with inputs.told():
        if picture is None:
            raise ValueError("there is no picture yet: draw one first")
        return gr.Tabs(selected=tab), picture


def figure(frame: Frame, words: str, tokens: int, about: str) -> str:
    """A frame as HTML. The picture is in it, so that none of those on the way becomes a file."""
    file = io.BytesIO()
    frame.picture.save(file, "png")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    times = max(1, SHOWN // frame.picture.width)
    width, look = frame.picture.width * times, "crisp" if times > 1 else ""
    if frame.tokens is None:
        below = f'<span>{about}</span><a href="{source}" download="picture.png">Save</a>'
    else:
        below = f'<progress value="{frame.tokens}" max="{tokens}"></progress><span>{frame.tokens} of {tokens}</span>'
    image = f'<img class="{look}" src="{source}" width="{width}" alt="{html.escape(words)}">'
    return f'<figure class="drawn" style="width: {width}px">{image}<figcaption>{below}</figcaption></figure>'
