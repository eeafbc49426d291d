"""Examples to click. They suit models of the synthetic shapes (`datamodules.shapes`), and try anything else."""

PROMPTS = [
    "a red circle above a blue square",
    "three green triangles",
    "a small yellow ring and a large purple cross",
    "a large orange square on a navy background",
    "a pink ring left of a brown triangle",
]
QUESTIONS = [
    "how many objects are there?",
    "what colour is the circle?",
    "is there a blue square?",
    "where is the triangle?",
    "are there more circles than squares?",
]
INSTRUCTIONS = [
    "make the circle green",
    "add a small yellow ring",
    "remove the square",
    "move the triangle to the top",
]
