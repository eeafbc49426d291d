"""Text decoding beside plain Python that recomputes everything, one text at a time."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import pytest
import tiny
import torch
from torch import Tensor

from unifluid import randomness
from unifluid.backbones import Decoder
from unifluid.decoding import TextSampling, generate_text
from unifluid.decoding.text import beam_search, cooled, nucleus
from unifluid.interfaces import TextTokenizer
from unifluid.model import UniFluidModel
from unifluid.packing import pack
from unifluid.sequence import Example


class Letters(TextTokenizer):
    """pad, bos, eos, separator, then a few letters: few enough to try every text there is."""

    vocab_size, pad, bos, eos, separator = 8, 0, 1, 2, 3

    def encode(self, text: str) -> list[int]:
        return [4 + "abcd".index(c) for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join("abcd"[i - 4] for i in ids if i >= 4)

    def state(self) -> bytes:
        return b""

    def load_state(self, state: bytes) -> None: ...


LETTERS = Letters()
EXAMPLES = [
    Example("0", "caption", tiny.image(0), prompt="a"),
    Example("1", "answer", (tiny.image(1), tiny.image(2)), question="abcda"),
    Example("2", "answer", tiny.image(3), question="dcb"),
    Example("3", "caption", tiny.image(4), prompt="bb"),
    Example("4", "answer", tiny.image(5), question="adadadad"),
]
WORDS = [LETTERS.eos, *range(4, 8)]  # what may be written


@functools.cache
def make_model(seed: int) -> UniFluidModel:
    torch.manual_seed(seed)
    model = tiny.model(seed, backbone=Decoder(LETTERS.vocab_size, tied=False, **tiny.BACKBONE))
    model.backbone.output.weight.data *= 3
    model.backbone.output.weight.data[LETTERS.eos] *= 0.5  # not too often the end at once
    return model


SEEDS = (15, 20, 23)
MODEL = make_model(15)
FORMATTER = tiny.formatter(MODEL, tokenizer=LETTERS)


@functools.cache
@torch.no_grad()
def next_log_probabilities(seed: int, example: int, written: tuple[int, ...]) -> list[float]:
    """log p(next | written) over the vocabulary from one full pass; control ids other than eos cannot come."""
    model, segment = make_model(seed), FORMATTER.prompt(EXAMPLES[example])
    segment.suffix_ids = [*written, LETTERS.eos]
    batch = pack([segment], FORMATTER, 1)
    h = model.backbone(model.embed(batch), batch.layout).flatten(0, 1)[batch.label_index[-1]]
    logits = (h @ model.backbone.output_weight.T).tolist()
    total = math.log(sum(math.exp(logits[i]) for i in WORDS))
    return [logits[i] - total if i in WORDS else -math.inf for i in range(LETTERS.vocab_size)]


NextLogProbabilities = Callable[[tuple[int, ...]], list[float]]


def greedy(table: NextLogProbabilities, max_tokens: int) -> list[int]:
    written: tuple[int, ...] = ()
    while len(written) < max_tokens and LETTERS.eos not in written:
        p = table(written)
        written += (p.index(max(p)),)
    return list(written)


def likeliest(table: NextLogProbabilities, max_tokens: int) -> list[int]:
    """The best of all texts of at most `max_tokens` ids, eos included."""
    scores: dict[tuple[int, ...], float] = {}
    for n in range(max_tokens):
        for text in itertools.product(WORDS[1:], repeat=n):
            ids = (*text, LETTERS.eos)
            scores[ids] = sum(table(ids[:k])[i] for k, i in enumerate(ids))
    return list(max(scores, key=scores.get))


def beam(table: NextLogProbabilities, beams: int, max_tokens: int) -> list[int]:
    """Beam search as documented: every unfinished text may end at any step, the best ended one wins."""
    unfinished, ended = [(0.0, ())], []
    for _ in range(max_tokens):
        longer = []
        for score, ids in unfinished:
            p = table(ids)
            ended.append((score + p[LETTERS.eos], (*ids, LETTERS.eos)))
            longer += [(score + p[i], (*ids, i)) for i in WORDS[1:]]
        unfinished = sorted(longer, reverse=True)[:beams]
    return list(max(ended)[1])


def tables(seed: int) -> list[NextLogProbabilities]:
    return [functools.partial(next_log_probabilities, seed, i) for i in range(len(EXAMPLES))]


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_takes_the_likeliest_step(seed):
    expected = [LETTERS.decode(greedy(table, 7)) for table in tables(seed)]
    assert generate_text(make_model(seed), FORMATTER, EXAMPLES, TextSampling(max_tokens=7), seed=0) == expected


@pytest.mark.parametrize("beams", [2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_beam_search_by_hand(seed, beams):
    expected = [LETTERS.decode(beam(table, beams, 7)) for table in tables(seed)]
    sampling = TextSampling(beams=beams, max_tokens=7, batch_size=3)
    assert generate_text(make_model(seed), FORMATTER, EXAMPLES, sampling, seed=0) == expected


class Tree:
    """Stands in for a Writer: random log-probabilities, a function of the row's seed and all it has written."""

    eos, pad = LETTERS.eos, LETTERS.pad

    def __init__(self, seeds: range, max_tokens: int):
        self.max_tokens, self.rows, self.h, self.cache = (
            max_tokens,
            [(s,) for s in seeds],
            torch.zeros(len(seeds), 1),
            self,
        )

    @staticmethod
    @functools.cache
    def table(seed: int, written: tuple[int, ...]) -> list[float]:
        logits = 2 * torch.randn(LETTERS.vocab_size, generator=randomness.generator(seed, *written))
        logits[LETTERS.eos] += 2 * len(written) - 6  # sooner or later it ends
        logits[[LETTERS.pad, LETTERS.bos, LETTERS.separator]] = -math.inf
        return logits.log_softmax(0).tolist()

    def logits(self) -> Tensor:
        return torch.tensor([self.table(seed, tuple(written)) for seed, *written in self.rows])

    def reorder(self, rows: Tensor) -> None:
        self.rows = [self.rows[r] for r in rows.tolist()]

    def write(self, ids: Tensor) -> None:
        self.rows = [(*row, i) for row, i in zip(self.rows, ids.tolist(), strict=True)]


def search(seeds: range, beams: int, max_tokens: int) -> list[list[int]]:
    found = beam_search(Tree(seeds, max_tokens), beams).tolist()
    ids = [row[: row.index(LETTERS.eos) + 1] for row in found]
    assert all(set(row[len(text) :]) <= {LETTERS.pad} for row, text in zip(found, ids, strict=True))
    return ids


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
def test_beam_search_in_a_random_tree(beams):
    seeds = range(40)
    expected = [beam(functools.partial(Tree.table, seed), beams, 6) for seed in seeds]
    assert len({len(text) for text in expected}) > 3
    assert search(seeds, beams, 6) == expected


def test_a_beam_as_wide_as_the_tree_finds_the_best_text():
    seeds = range(20)
    expected = [likeliest(functools.partial(Tree.table, seed), 4) for seed in seeds]
    assert search(seeds, 4**4, 4) == expected
    assert search(seeds, 1, 4) != expected


@pytest.mark.parametrize("sampling", [TextSampling(), TextSampling(beams=2), TextSampling(temperature=0.8, top_p=0.9)])
def test_a_text_does_not_depend_on_its_neighbours(sampling):
    sampling = dataclasses.replace(sampling, max_tokens=9)
    indices = [5, 2, 9, 4, 0]
    together = generate_text(MODEL, FORMATTER, EXAMPLES, sampling, 0, indices)
    alone = dataclasses.replace(sampling, batch_size=1)
    assert generate_text(MODEL, FORMATTER, EXAMPLES[::-1], alone, 0, indices[::-1])[::-1] == together


def test_draws_are_a_function_of_seed_and_index():
    sampling = TextSampling(temperature=2.0, max_tokens=12)

    def draw(seed: int, indices: list[int] | None = None) -> list[str]:
        return generate_text(MODEL, FORMATTER, EXAMPLES[:1] * 4, sampling, seed, indices)

    assert draw(0) == draw(0, [0, 1, 2, 3]) and len(set(draw(0))) > 1
    assert draw(1) != draw(0) and draw(0, [3, 2, 1, 0]) == draw(0)[::-1]


def test_cold_and_narrow_draws_are_greedy():
    expected = generate_text(MODEL, FORMATTER, EXAMPLES, TextSampling(max_tokens=7), 0)
    for sampling in (
        TextSampling(temperature=1e-3, max_tokens=7),
        TextSampling(temperature=1, top_p=1e-6, max_tokens=7),
    ):
        assert generate_text(MODEL, FORMATTER, EXAMPLES, sampling, 0) == expected


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300])
def test_however_low_the_temperature_the_likeliest_is_drawn(temperature):
    logits = torch.tensor([[1.0, 3.0, float("-inf"), 2.9]])
    assert nucleus(cooled(logits, temperature), 1.0, torch.tensor([0.999])).item() == 1


def test_nucleus_draws_from_the_fewest_that_reach_top_p():
    p = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3])
    n = 20_000
    u = (torch.arange(n) + 0.5) / n
    for top_p, kept in ((1.0, [0, 1, 3, 4]), (0.9, [1, 3, 4]), (0.69, [1, 4]), (0.3, [1])):
        ids = nucleus(p.log().expand(n, -1), top_p, u)
        share = torch.bincount(ids, minlength=5) / n
        expected = torch.tensor([p[i] if i in kept else 0.0 for i in range(5)])
        assert (share - expected / expected.sum()).abs().max() < 1e-3
    largest = torch.nextafter(torch.tensor([1.0]), torch.tensor([0.0]))
    assert nucleus(p.log()[None], 1.0, largest).item() == 0  # never one without probability


def test_control_ids_are_never_written(monkeypatch):
    written, write = [], MODEL.backbone.embed
    monkeypatch.setattr(MODEL.backbone, "embed", lambda ids: written.append(ids) or write(ids))
    weight = MODEL.backbone.output.weight.data.clone()
    weight[[LETTERS.pad, LETTERS.bos, LETTERS.separator]] *= 50  # would nearly always win or be drawn
    monkeypatch.setattr(MODEL.backbone.output.weight, "data", weight)
    for sampling in (TextSampling(), TextSampling(beams=3), TextSampling(temperature=3.0)):
        generate_text(MODEL, FORMATTER, EXAMPLES[:1], dataclasses.replace(sampling, max_tokens=20), 0)
    suffixes = torch.cat([ids.flatten() for ids in written if ids.shape[-1] == 1])
    assert (
        len(suffixes) > 5
        and not torch.isin(suffixes, torch.tensor([LETTERS.pad, LETTERS.bos, LETTERS.separator])).any()
    )


def steps(monkeypatch, sampling: TextSampling, logits: Tensor) -> list[int]:
    """Positions of each backbone call while the text head gives `logits` (calls, V) whatever the hidden state."""
    lengths, forward, calls = [], MODEL.backbone.forward, iter(logits)
    with monkeypatch.context() as patch:
        patch.setattr(MODEL.backbone, "forward", lambda x, *a: lengths.append(x.shape[1]) or forward(x, *a))
        patch.setattr(MODEL.text_head, "logits", lambda h, w: next(calls).expand(len(h), -1).clone())
        generate_text(MODEL, FORMATTER, EXAMPLES, sampling, 0)
    return lengths


@pytest.mark.parametrize("sampling", [TextSampling(), TextSampling(beams=2), TextSampling(temperature=1.0)])
def test_nothing_runs_after_the_last_text_ended(monkeypatch, sampling):
    logits = torch.full((64, LETTERS.vocab_size), -20.0)
    logits[:3, 4] = logits[3:, LETTERS.eos] = 20.0  # three letters, then the end
    lengths = steps(monkeypatch, sampling, logits)
    assert lengths[0] > 1 and lengths[1:] == [1, 1, 1]


@pytest.mark.parametrize(
    ("sampling", "bonus"), [(TextSampling(), 4), (TextSampling(beams=2), 2), (TextSampling(temperature=1.0), 2)]
)
def test_texts_that_have_ended_cost_nothing(monkeypatch, sampling, bonus):
    rows, forward, logits = [], MODEL.backbone.forward, MODEL.text_head.logits
    earlier = torch.eye(LETTERS.vocab_size)[LETTERS.eos] * bonus  # else the model writes on and on
    monkeypatch.setattr(MODEL.text_head, "logits", lambda h, w: logits(h, w) + earlier)
    monkeypatch.setattr(MODEL.backbone, "forward", lambda x, *a: rows.append(len(x)) or forward(x, *a))
    together, n = [], len(EXAMPLES)
    for seed in range(4):
        rows.clear()
        together += generate_text(MODEL, FORMATTER, EXAMPLES, sampling, seed)
        assert rows[1:] == sorted(rows[1:], reverse=True)
        in_all, _ = sum(rows), rows.clear()
        alone = [generate_text(MODEL, FORMATTER, [e], sampling, seed, [i]) for i, e in enumerate(EXAMPLES)]
        assert together[-n:] == [text for (text,) in alone]
        assert in_all == sum(rows)  # no more rows than one text at a time takes
    assert len({len(text) for text in together}) > 1


def test_no_text_is_longer_than_asked(monkeypatch):
    logits = torch.full((64, LETTERS.vocab_size), -20.0)
    logits[:, 4] = 20.0
    for sampling in (TextSampling(max_tokens=5), TextSampling(beams=2, max_tokens=5)):
        assert steps(monkeypatch, sampling, logits)[1:] == [1] * 4  # the fifth id needs no step
        assert all(len(t) <= 5 for t in generate_text(MODEL, FORMATTER, EXAMPLES, sampling, 0))
    assert all(len(t) <= 1 for t in generate_text(MODEL, FORMATTER, EXAMPLES, TextSampling(max_tokens=1), 0))


def test_progress_modes_and_precision():
    seen = []

    def progress(done: float, n: int) -> None:
        seen.append((done, n))
        assert not any(module.training for module in MODEL.modules()) and torch.is_inference_mode_enabled()

    MODEL.train()
    texts = generate_text(MODEL, FORMATTER, EXAMPLES, TextSampling(batch_size=2), 0, progress=progress)
    assert seen == [(2, 5), (4, 5), (5, 5)] and len(texts) == 5 and MODEL.training
    MODEL.eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert len(generate_text(MODEL, FORMATTER, EXAMPLES, TextSampling(beams=2), 0)) == 5
    assert generate_text(MODEL, FORMATTER, [], TextSampling(), 0) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beams": 0}, "at least 1"),
        ({"max_tokens": 0}, "at least 1"),
        ({"temperature": -1}, "negative"),
        ({"top_p": 0}, "top_p"),
        ({"beams": 2, "temperature": 1.0}, "does not draw"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextSampling(**arguments)
