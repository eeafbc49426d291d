"""How images are drawn: the settings, and whether a model can be drawn from with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch

from unifluid.decoding.guidance import SCHEDULES, Schedule
from unifluid.interfaces import Interval, Part
from unifluid.model import UniFluidModel
from unifluid.nearest import did_you_mean
from unifluid.sequence import Formatter, Order, make_order, round_sizes

WHOLE = ("steps", "late_steps", "rounds", "batch_size", "candidates")
FINITE = ("guidance", "source_guidance", "temperature", "time_shift", "start")
TEXT = ("candidates_prompt", "sampler")
OF_HEAD = ("sampler", "time_shift", "start")


@dataclass(frozen=True)
class ImageSampling:
    """How images are drawn. Raises ValueError, naming the setting, where one is out of range.

    Args:
        steps: head steps for every image token (MAR: 100; a flow head needs about 25).
        guidance: classifier-free guidance scale; 1 decodes the prompt alone, at half the cost.
        schedule: guidance over the image tokens: constant, rising from 1 (linear, cosine), or none.
        source_guidance: scale for an edit's source image, apart from its instruction's; left out, it is `guidance`.
        temperature: multiplies the noise of the head's steps, not the initial noise.
        order: order in which image tokens are drawn: random, raster, or a permutation of their row-major numbers; by
            default the order of training.
        batch_size: images drawn at once; images do not depend on it.
        candidates: images drawn for each prompt, of which the one is kept from which the model itself would best read
            the prompt back (log-likelihood as a caption). The first of them is what would be drawn without.
        candidates_prompt: what captions are asked for with, in that reading.
        rounds: in which an image is drawn, few tokens in the first and more in later ones (MAR, 2406.11838); one of
            those that the model was trained for. Left out, a token at a time.
        late_steps: head steps for the last image token, to which those of the others fall linearly from `steps`: the
            more of an image is there, the easier its next token (DiSA, 2505.20297). Left out, all have `steps`.
        sampler, time_shift, start: of the head, in place of its own; see there.
        interval: share of a token's head steps, from noise to token, in which guidance counts (2404.07724).
        int8: on a CPU, large matrices of backbone and image head in 8 bits: several times faster, a little coarser.
    """

    steps: int = 100
    guidance: float = 1.0
    schedule: Schedule = "constant"
    source_guidance: float | None = None
    temperature: float = 1.0
    order: Order | None = None
    batch_size: int = 64
    candidates: int = 1
    candidates_prompt: str = "caption en"
    rounds: int | None = None
    late_steps: int | None = None
    sampler: str | None = None
    time_shift: float | None = None
    start: float | None = None
    interval: Interval = (0.0, 1.0)
    int8: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if value is None and field.default is None:
                continue
            if name in WHOLE and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
            if name in FINITE and not (isinstance(value, int | float) and math.isfinite(value)):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
            if name in TEXT and not isinstance(value, str):
                raise ValueError(f"{name} must be a text, got {value!r}")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, got {self.temperature}")
        if not _are_shares(self.interval):
            raise ValueError(f"interval must be two shares of the steps, such as 0.2, 0.9; got {self.interval!r}")
        if self.schedule not in list(SCHEDULES):
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if not isinstance(self.int8, bool):
            raise ValueError(f"int8 must be true or false, got {self.int8!r}")

    @property
    def of_head(self) -> dict[str, Any]:
        """What is the image head's own, where it is given."""
        return {name: value for name in OF_HEAD if (value := getattr(self, name)) is not None}

    @classmethod
    def from_settings(cls, settings: dict[str, Any], where: str) -> ImageSampling:
        """`where`: what messages call the plain `settings`. Raises ValueError naming the first that is wrong."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(f"{where}.{name}: no such setting{did_you_mean(str(name), known)}")
        try:
            return cls(**settings)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error


def _are_shares(interval: Any) -> bool:
    numbers = isinstance(interval, tuple | list) and all(isinstance(x, int | float) for x in interval)
    return numbers and len(interval) == 2 and 0 <= interval[0] <= interval[1] <= 1


def check_sampling(
    sampling: ImageSampling, model: UniFluidModel, formatter: Formatter, where: str, tasks: Iterable[str] = ()
) -> None:
    """For the start of a run, long before anything is drawn. Raises ValueError beginning with `where` if `model` cannot
    be drawn from with these settings, or not for examples of one of the `tasks`."""
    try:
        check_candidates(sampling, tasks)
        sizes_of(sampling.rounds, formatter)
        if sampling.order is not None:
            make_order(sampling.order, formatter.num_target_tokens, torch.Generator())
        with drawn_with(model.image_head, sampling.of_head):
            model.image_head.check_steps(sampling.steps)
            model.image_head.check_steps(sampling.steps if sampling.late_steps is None else sampling.late_steps)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def check_candidates(sampling: ImageSampling, tasks: Iterable[str]) -> None:
    if sampling.candidates > 1 and set(tasks) - {"generate"}:
        raise ValueError("candidates are read back as captions of their prompts: edits have none, set candidates to 1")


def sizes_of(rounds: int | None, formatter: Formatter) -> list[int]:
    """How many tokens each round draws. Raises ValueError for rounds that were not trained."""
    n = formatter.num_target_tokens
    if rounds not in (None, n, *formatter.rounds):
        trained = ", ".join(map(str, sorted({n, *formatter.rounds})))
        raise ValueError(f"rounds must be one of those trained, {trained}, got {rounds}: see model.rounds")
    return round_sizes(n, n if rounds is None else rounds)


@contextmanager
def drawn_with(part: Part, chosen: dict[str, Any]) -> Iterator[None]:
    """Within it, `part` draws with the arguments `chosen`. Raises ValueError naming one it has not."""
    for name in chosen.keys() - set(part.drawing):
        choices = " and ".join(part.drawing) or "nothing like it"
        raise ValueError(f"{name} cannot be chosen for drawing: {type(part).__name__} has {choices}")
    if chosen:
        with torch.device("meta"):
            type(part)(**(part.init_args | chosen))  # checks them
    own = {name: getattr(part, name) for name in chosen}
    try:
        vars(part).update(chosen)
        yield
    finally:
        vars(part).update(own)
