"""What settings of drawing are refused, and when."""

from __future__ import annotations

import pytest
import tiny

from unifluid.decoding import ImageSampling
from unifluid.decoding.sampling import check_sampling
from unifluid.heads import DiffusionMLP


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidanse": 3}, r"here\.guidanse: no such setting; did you mean guidance\?"),
        ({"steps": 0}, "here: steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": None}, "steps must be a whole number of at least 1, got None"),
        ({"guidance": "3"}, "guidance must be a finite number, got '3'"),
        ({"temperature": -1}, "temperature must not be negative"),
        ({"time_shift": float("nan")}, "time_shift must be a finite number"),
        ({"sampler": 3}, "sampler must be a text"),
        ({"interval": 0.5}, "interval must be two shares"),
        ({"interval": [0.5, "x"]}, "interval must be two shares"),
        ({"interval": [0, 0.5, 1]}, "interval must be two shares"),
        ({"schedule": ["linear"]}, "schedule must be one of constant, linear"),
        ({"int8": "no"}, "int8 must be true or false"),
    ],
)
def test_plain_settings_are_checked_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageSampling.from_settings(settings, "here")


def test_plain_settings_become_what_they_say():
    made = ImageSampling.from_settings({"steps": 7, "late_steps": None, "interval": [0, 0.5]}, "here")
    assert made == ImageSampling(steps=7, interval=[0, 0.5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 2}, "rounds must be one of those trained, 9, got 2"),
        ({"order": "backwards"}, "order must be random, raster or a permutation"),
        ({"order": [0, 1]}, "order must be a permutation of 0…8"),
        ({"steps": 1}, "samples in 2 to 1000 steps, not 1"),
        ({"late_steps": 1}, "samples in 2 to 1000 steps, not 1"),
        ({"steps": 1001}, "samples in 2 to 1000 steps, not 1001"),
        ({"steps": 1000, "time_shift": 2.0}, "time_shift 2.0 is too large"),
        ({"time_shift": -1.0}, "time_shift must be positive"),
        ({"start": 0.0}, "start must be a share of the noise schedule, above 0 and up to 1, got 0.0"),
        ({"start": 0.05, "steps": 60}, "1000 steps, 50 of them from start 0.05, samples in 2 to 50 steps, not 60"),
        ({"sampler": "ode"}, "sampler must be one of ancestral"),
        ({"candidates": 2}, "candidates are read back as captions"),
    ],
)
def test_a_model_says_before_it_draws_what_it_cannot(settings, message):
    model = tiny.model()
    model.image_head = DiffusionMLP(12, 32, depth=1, width=16)
    formatter = tiny.formatter(model)
    with pytest.raises(ValueError, match=f"^here: .*{message}"):
        check_sampling(ImageSampling(**settings), model, formatter, "here", ["edit"])
    check_sampling(ImageSampling(), model, formatter, "here", ["edit"])
    assert model.image_head.time_shift == 1.0


def test_any_head_takes_the_steps_it_does_not_refuse():
    model = tiny.model()
    check_sampling(ImageSampling(steps=1), model, tiny.formatter(model), "here")
