"""Drawing a picture of 256 tokens (12×768 backbone, 6×1024 head, 100 steps, guidance 2.9) beside recomputation and MAR.

By default the pieces are timed – prefix, backbone steps at several lengths, head calls, places as `generate_images`
draws them – and composed to whole pictures; `--full` draws whole ones. The image tokenizer's decoder costs the same on
all sides and is left out.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.harness import Bench, main
from benchmarks.models import HEAD, TINY_HEAD, decoder, make_formatter, make_model
from benchmarks.pieces import GUIDANCE, Drawing
from benchmarks.textbook import groups, masked_tokens, uncached_tokens
from benchmarks.timing import agree, clocked, interleaved
from unifluid.heads import DiffusionMLP

TOLERANCES = {"fp32": 1e-4, "bf16": 2e-2, "int8": 1e-4}  # of hidden states and head trajectories, called bare
PICTURES = {"fp32": 1e-4, "bf16": float("inf"), "int8": float("inf")}  # tokens are read by all later: roundings add up
MASKED = (256, 64)  # iterations of masked decoding


def run(bench: Bench) -> None:
    backbone, grid = decoder(bench.tiny), (4, 4) if bench.tiny else (16, 16)
    whole = make_model(backbone, lambda *dims: DiffusionMLP(*dims, **(TINY_HEAD if bench.tiny else HEAD)), grid)
    part = make_model(backbone, whole.image_head, (2, 4))
    for batch in (1, 16) if bench.options.full and not bench.tiny else (1,):
        for precision in TOLERANCES:
            drawing = Drawing(whole, part, batch, 3 if bench.tiny else 100, int8=precision == "int8")
            name = f"batch {batch}, {precision}"
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                if bench.wants(f"small picture, {name}"):
                    small_pictures(bench, drawing, name, precision)
                if bench.options.full:
                    whole_pictures(bench, drawing, name, precision)
                elif bench.wants(f"picture, composed, {name}"):
                    composed_pictures(bench, drawing, name, precision)


def small_pictures(bench: Bench, drawing: Drawing, name: str, precision: str) -> None:
    """Whole pictures of few tokens, compared token for token with those drawn without a cache."""
    arguments = drawing.part, make_formatter(drawing.part), drawing.examples, drawing.sampling
    bench.compare(
        f"small picture, {name}",
        ours=lambda: drawing.tokens(drawing.part),
        reference=lambda: uncached_tokens(*arguments, seed=0),
        tolerance=PICTURES[precision],
        beside="recomputation",
    )


def whole_pictures(bench: Bench, drawing: Drawing, name: str, precision: str) -> None:
    arguments = drawing.whole, drawing.formatter, drawing.examples, drawing.sampling
    if bench.wants(case := f"picture, {name}, beside recomputation"):
        bench.compare(
            case,
            ours=lambda: drawing.tokens(drawing.whole),
            reference=lambda: uncached_tokens(*arguments, seed=0),
            tolerance=PICTURES[precision],
            beside="recomputation",
        )
    weights = torch.tensor([[GUIDANCE], [1 - GUIDANCE]]).expand(-1, drawing.batch)
    for n in dict.fromkeys(min(n, drawing.places) for n in MASKED):
        if bench.wants(case := f"picture, {name}, beside masked decoding, {n} iterations"):
            masked = drawing.whole, drawing.embedded_prefix(), n, weights, drawing.steps, drawing.mar
            bench.compare(
                case,
                ours=lambda: drawing.tokens(drawing.whole),
                reference=lambda masked=masked: masked_tokens(*masked),
                beside=f"masked decoding, {n} iterations",
            )


def composed_pictures(bench: Bench, drawing: Drawing, name: str, precision: str) -> None:
    """All pieces timed in turn, and what they come to round by round. Each is checked first, which warms it up."""
    bench.say(f"pieces, {name} …")
    n, errors = drawing.places, {}
    drawn = sorted({round(share * (n - 1)) for share in (0, 1 / 3, 2 / 3, 1)})
    pieces = {f"backbone step, {length} tokens drawn": drawing.backbone_step(length) for length in drawn}
    pieces["head, all steps"] = drawing.head()
    for piece, (ours, reference) in pieces.items():
        errors[piece] = agree(f"{bench.name}, {piece}, {name}", ours(), reference(), TOLERANCES[precision])
    iterations = {count: groups(n, count) for count in dict.fromkeys(min(n, m) for m in MASKED)}
    most = max(max(sizes) for sizes in iterations.values())
    both = {"ours": 0, "reference": 1}
    work = {(piece, side): clocked(pair[i]) for piece, pair in pieces.items() for side, i in both.items()}
    work["prefix", "ours"], work["place, early", "ours"] = clocked(drawing.prefix), drawing.place_seconds
    work["bidirectional pass", "reference"] = clocked(drawing.bidirectional_pass())
    if most > 1:
        work[f"head, all steps, {most} tokens at once", "reference"] = clocked(drawing.head(most)[1])
    for key in [*work][2 * len(pieces) :]:
        work[key]()
    found = {key: np.array(seconds) for key, seconds in interleaved(work, bench.repeats).items()}
    for piece in dict.fromkeys(piece for piece, _ in found):
        sides = {side: found[piece, side].tolist() for side in both if (piece, side) in found}
        bench.add(f"{piece}, {name}", sides, errors.get(piece))

    def over_all(side: str) -> np.ndarray:
        """Backbone steps of all places, of each round, from those at a few lengths."""
        steps = np.stack([found[f"backbone step, {length} tokens drawn", side] for length in drawn], axis=1)
        return np.array([np.interp(range(n), drawn, times).sum() for times in steps])

    # A place costs what an early one does, and what its backbone step costs more than an early one's.
    early = found["place, early", "ours"] - found[f"backbone step, {drawn[0]} tokens drawn", "ours"]
    ours = found["prefix", "ours"] + n * early.clip(min=0) + over_all("ours")
    references = {"recomputation": over_all("reference") + n * found["head, all steps", "ours"]}
    one = found["head, all steps", "reference"]
    many = found.get((f"head, all steps, {most} tokens at once", "reference"), one)
    for count, sizes in iterations.items():
        heads = sum(one + (many - one) * (size - 1) / max(most - 1, 1) for size in sizes)
        passes = count * found["bidirectional pass", "reference"]
        references[f"masked decoding, {count} iterations"] = passes + heads
    for beside, reference in references.items():
        sides = {"ours": ours.tolist(), "reference": reference.tolist()}
        bench.add(f"picture, composed, {name}, beside {beside}", sides, beside=beside)


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--full", action="store_true", help="draw whole pictures, batch 1 and 16: takes hours on a CPU")


if __name__ == "__main__":
    main("decode", __doc__, run, flags=flags)
