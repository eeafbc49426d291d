"""Drawing with Gemma 2 2B and a 6×1024 head, random weights, in bf16: the pieces beside their floors, and MAR's loop.

The ratio of a floor to ours is the share of it that is reached, 1 at most. Head and places are timed with every kernel
launched by Python, and as replays of a CUDA graph, as they are drawn; without a GPU both are the former.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.floors import autocast, bandwidth, chain, device, graphed, linears, weight_bytes
from benchmarks.harness import Bench
from benchmarks.models import HEAD, TINY_HEAD, filled, make_model
from benchmarks.pieces import Drawing
from benchmarks.timing import agree, clocked, interleaved
from unifluid.backbones import HuggingFaceBackbone
from unifluid.decoding.graphed import eager, recorder_for
from unifluid.heads import DiffusionMLP

GEMMA2_2B = {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "vocab_size": 256_000,
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8, "vocab_size": 64}


def backbone(tiny: bool) -> HuggingFaceBackbone:
    config = {"model_type": "gemma2"} | GEMMA2_2B | (TINY if tiny else {})
    with torch.device(device()):
        torch.manual_seed(0)
        return HuggingFaceBackbone(config["vocab_size"], config=config, dtype="bfloat16").eval()


def run(bench: Bench) -> None:
    decoder = backbone(bench.tiny)
    sizes = TINY_HEAD if bench.tiny else HEAD
    head = filled(DiffusionMLP(16, decoder.width, **sizes)).eval().to(device(), torch.bfloat16)
    whole = make_model(decoder, head, (4, 4) if bench.tiny else (16, 16))
    part = make_model(decoder, head, (2, 4))
    for batch in (1, 2) if bench.tiny else (1, 64):
        with torch.inference_mode(), autocast():
            pieces(bench, Drawing(whole, part, batch, 3 if bench.tiny else 100), f"batch {batch}")


def pieces(bench: Bench, drawing: Drawing, name: str) -> None:
    n, rows, head = drawing.places, 2 * drawing.batch, drawing.whole.image_head
    layers = linears(nn.ModuleList(drawing.whole.backbone.layers()))
    every_step, every_token = head_weights(head.net)
    floors = {
        "backbone step": graphed(chain(layers, rows)),
        "head": graphed(head_chain(every_step, every_token, rows, drawing.steps)),
    }
    traffic = {
        "backbone step": weight_bytes(layers) / bandwidth(bench.tiny),
        "head": (drawing.steps * weight_bytes(every_step) + weight_bytes(every_token)) / bandwidth(bench.tiny),
    }
    step, uncached = drawing.backbone_step(n // 2)
    recorder = recorder_for(device())
    (ours_head, mar_head), (graphed_head, _) = drawing.head(), drawing.head(recorder=recorder)
    graphed_head()  # the first call warms up, the second records
    # Reported, not enforced: a machine lent for minutes should not stop at a rounding.
    errors = {"backbone step": agree("backbone", step(), uncached(), float("inf"))}
    errors["head"] = agree("head", ours_head(), mar_head(), float("inf"))
    errors["head, graphed"] = agree("graphed head", graphed_head(), ours_head(), float("inf"))
    drawing.place_seconds(recorder)
    work = {
        ("backbone step", "ours"): clocked(step),
        ("backbone step", "reference"): clocked(floors["backbone step"]),
        ("head", "ours"): clocked(ours_head),
        ("head, graphed", "ours"): clocked(graphed_head),
        ("head", "reference"): clocked(floors["head"]),
        ("head, MAR", "reference"): clocked(mar_head),
        ("place", "ours"): partial(drawing.place_seconds, eager),
        ("place, graphed", "ours"): partial(drawing.place_seconds, recorder),
    }
    found = interleaved(work, bench.repeats)
    floors_found = {piece: found[piece, "reference"] for piece in traffic}
    both = [step + head for step, head in zip(*floors_found.values(), strict=True)]
    for piece in ("backbone step", "head", "head, graphed"):
        part = piece.removesuffix(", graphed")
        sides = {"ours": found[piece, "ours"], "reference": floors_found[part]}
        at_copying_speed = {"weights_at_copying_speed_ms": round(1000 * traffic[part], 4)}
        bench.add(f"{piece}, {name}", sides, errors[piece], beside="graphed matrix products", **at_copying_speed)
    mar = {"ours": found["head, graphed", "ours"], "reference": found["head, MAR", "reference"]}
    bench.add(f"head, graphed, {name}, beside MAR's loop", mar, beside="MAR's loop")
    least = round(1000 * n * sum(traffic.values()), 2)
    for kind in ("", ", graphed"):
        places = {"ours": found[f"place{kind}", "ours"], "reference": both}
        bench.add(f"place in generate_images{kind}, {name}", places, beside="graphed matrix products")
        pictures = {side: (n * np.array(seconds)).tolist() for side, seconds in places.items()}
        more = {"beside": "graphed matrix products", "weights_at_copying_speed_ms": least}
        bench.add(f"picture of {n} places{kind}, {name}", pictures, **more)


def head_weights(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights that depend on x, used in every step, and those that can be used once a token."""
    weights = {name: p for name, p in net.named_parameters() if p.ndim == 2}
    hoisted = [name for name in weights if name.split(".")[0] in ("time", "condition") or "modulation" in name]
    return [w for name, w in weights.items() if name not in hoisted], [weights[name] for name in hoisted]


def head_chain(every_step: list[Tensor], every_token: list[Tensor], rows: int, steps: int):
    step, token = chain(every_step, rows), chain(every_token, rows * steps)

    def work() -> None:
        token()
        for _ in range(steps):
            step()

    return work
