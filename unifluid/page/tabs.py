"""The page: four tabs, Draw, Describe, Ask and Edit, and the ways from one to another."""

from __future__ import annotations

import html
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from unifluid.decoding import ImageSampling
from unifluid.decoding.guidance import SCHEDULES
from unifluid.page import examples
from unifluid.page.handlers import AS_TRAINED, EMPTY, Handlers, send
from unifluid.page.inputs import LONGEST, read_upload

# One request at a time, whichever button it comes from; none can be called but from the page.
MODEL = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private", "show_progress": "minimal"}
AT_ONCE = {"concurrency_limit": None, "api_visibility": "private", "show_progress": "hidden"}
UNHEARD = {"queue": False, **AT_ONCE}  # gradio shows no errors of what passes by its queue


class Drawn(NamedTuple):
    """The right side of Draw and of Edit: the figure, the picture in it, and the buttons that send it on."""

    figure: gr.HTML
    picture: gr.State
    buttons: dict[str, gr.Button]  # by the tab they lead to


class Task(NamedTuple):
    """A tab that takes a picture: where it goes, and what is done with it at once, if anything."""

    picture: gr.Image
    run: dict[str, Any] | None = None  # arguments of an event


def build(handlers: Handlers, about: str, defaults: ImageSampling) -> gr.Blocks:
    """The page, not yet served. `about`: a line on the model; `defaults`: where the controls of drawings stand."""
    with gr.Blocks(title="unifluid", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.HTML(f"<h1>unifluid</h1><p>{html.escape(about)}</p>", elem_id="head")
        with gr.Tabs() as tabs:
            with gr.Tab("Draw", id="draw"), gr.Row():
                drawn = draw_tab(handlers, defaults)
            with gr.Tab("Describe", id="describe"), gr.Row():
                describe = describe_tab(handlers)
            with gr.Tab("Ask", id="ask"), gr.Row():
                ask = ask_tab(handlers)
            with gr.Tab("Edit", id="edit"), gr.Row():
                edited, edit = edit_tab(handlers, defaults)
        for result in (drawn, edited):
            for name, task in {"describe": describe, "ask": ask, "edit": edit}.items():
                sent = result.buttons[name].click(
                    partial(send, tab=name), result.picture, [tabs, task.picture], **AT_ONCE
                )
                if task.run:
                    sent.success(**task.run)
        page.unload(handlers.stop)
    return page


def draw_tab(handlers: Handlers, defaults: ImageSampling) -> Drawn:
    with gr.Column():
        prompt = words("Prompt", "what the picture shows")
        go, stop = go_and_stop("Draw")
        gr.Examples(examples.PROMPTS, prompt, label="For example", api_visibility="private")
        with settings():
            controls = drawing_controls(defaults)
            candidates = gr.Slider(
                1, 8, 1, step=1, label="Candidates", info="draws so many, keeps the one it reads back best"
            )
    result = drawing("draw")
    wire(handlers, handlers.draw, [prompt, candidates, *controls], go, prompt, stop, result, seed=controls[1])
    return result


def edit_tab(handlers: Handlers, defaults: ImageSampling) -> tuple[Drawn, Task]:
    with gr.Column():
        picture = upload("edit")
        instruction = words("Instruction", "what to change")
        go, stop = go_and_stop("Edit")
        gr.Examples(examples.INSTRUCTIONS, instruction, label="For example", api_visibility="private")
        with settings():
            controls = drawing_controls(defaults)
            source = gr.Number(
                defaults.source_guidance, label="Source guidance", info="for the picture alone; empty: as guidance"
            )
    result = drawing("edit")
    inputs = [picture, instruction, source, *controls]
    wire(handlers, handlers.edit, inputs, go, instruction, stop, result, seed=controls[1])
    return result, Task(picture)


def describe_tab(handlers: Handlers) -> Task:
    with gr.Column():
        picture = upload("describe")
        go = gr.Button("Describe", variant="primary")
        with settings():
            width = beams()
    with gr.Column():
        caption = gr.Textbox(label="Description", lines=3, interactive=False)
    run = {"fn": handlers.describe, "inputs": [picture, width], "outputs": caption, **MODEL}
    go.click(**run)
    return Task(picture, run)


def ask_tab(handlers: Handlers) -> Task:
    with gr.Column():
        picture = upload("ask")
        question = words("Question", "what you want to know")
        go = gr.Button("Ask", variant="primary")
        gr.Examples(examples.QUESTIONS, question, label="For example", api_visibility="private")
        with settings():
            width = beams()
    with gr.Column():
        answer = gr.Textbox(label="Answer", lines=3, interactive=False)
    gr.on([go.click, question.submit], handlers.ask, [picture, question, width], answer, **MODEL)
    return Task(picture)


# -- what tabs are made of ------------------------------------------------------------------------------------------


def words(label: str, placeholder: str) -> gr.Textbox:
    return gr.Textbox(label=label, placeholder=placeholder, max_length=LONGEST)


def upload(tab: str) -> gr.Image:
    names = {"elem_id": f"{tab}-picture", "elem_classes": "upload"}
    picture = gr.Image(label="Picture", sources=["upload", "clipboard"], format="png", buttons=[], height=320, **names)
    picture.preprocess = read_upload  # no subclass: gradio would write an interface file beside this one
    checked = picture.upload(lambda _: None, picture, **AT_ONCE)  # reads it: what is no picture is refused as it comes
    checked.failure(lambda: None, outputs=picture, **UNHEARD)
    return picture


def beams() -> gr.Slider:
    return gr.Slider(1, 8, 1, step=1, label="Beams", info="width of the search for the likeliest text; 1: none")


def settings() -> gr.Accordion:
    return gr.Accordion("Settings", open=False)


def go_and_stop(label: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button(label, variant="primary", scale=3), gr.Button("Stop", scale=1, min_width=80)


def drawing_controls(defaults: ImageSampling) -> list[gr.Component]:
    """In the order of the handlers' arguments: new seed or not, the seed, then `handlers.CONTROLS`."""
    with gr.Row():
        new_seed = gr.Checkbox(True, label="New seed each time", min_width=100)
        seed = gr.Number(0, precision=0, label="Seed", min_width=100)
    steps = gr.Slider(1, 200, defaults.steps, step=1, label="Steps", info="of the head, for every token")
    guidance = gr.Slider(1, 10, defaults.guidance, step=0.1, label="Guidance", info="how closely words are followed")
    temperature = gr.Slider(0, 1.5, defaults.temperature, step=0.05, label="Temperature", info="how freely it draws")
    with gr.Row():
        schedule = gr.Dropdown(list(SCHEDULES), value=defaults.schedule, label="Guidance schedule", min_width=100)
        order = gr.Dropdown(
            [AS_TRAINED, "raster", "random"], value=AS_TRAINED, label="Order of the tokens", min_width=100
        )
    return [new_seed, seed, steps, guidance, schedule, temperature, order]


def drawing(tab: str) -> Drawn:
    with gr.Column():
        figure = gr.HTML(EMPTY, elem_id=f"{tab}-drawing")
        picture = gr.State(time_to_live=3600)
        with gr.Row():
            labels = {"describe": "Describe it", "ask": "Ask about it", "edit": "Edit it"}
            buttons = {name: gr.Button(label, size="sm", min_width=80) for name, label in labels.items()}
    return Drawn(figure, picture, buttons)


def wire(
    handlers: Handlers,
    draw: Callable,
    inputs: list[gr.Component],
    go: gr.Button,
    entry: gr.Textbox,
    stop: gr.Button,
    result: Drawn,
    seed: gr.Number,
) -> None:
    """The buttons of a drawing. Stop ends the one that is being drawn, and takes one that waits out of the queue."""
    shown = [result.figure, result.picture, seed]
    drawn = gr.on([go.click, entry.submit], draw, inputs, shown, show_progress_on=result.figure, **MODEL)
    stop.click(handlers.stop, cancels=drawn, **UNHEARD)
