"""Where image tokens look while they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from toy import make_module

from unifluid.attention import attention_maps, recorded
from unifluid.backbones.attention import attend
from unifluid.pipeline import Pipeline
from unifluid.randomness import generator
from unifluid.sequence import make_order

SAMPLING = {"steps": 2, "guidance": 3.0, "order": "random"}


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    module = make_module()
    module.configure_model()
    module.model.load_state_dict(tiny.model().state_dict())  # no zero weights left
    return Pipeline(module)


def test_what_is_recorded_is_what_the_values_are_weighed_with(pipeline, monkeypatch):
    """`attend` is given q, k and v: the recorded weights times v must be what it returns."""
    seen = []

    def spy(q, k, v, bias, *more):
        out = attend(q, k, v, bias, *more)
        seen.append((v.repeat_interleave(q.shape[1] // v.shape[1], dim=1).clone(), out))
        return out

    monkeypatch.setattr("unifluid.backbones.decoder.attend", spy)
    with recorded(pipeline.module.model.backbone.layers()) as calls:
        pipeline.generate(["a cat", "a large red dog"], **SAMPLING)
    assert len(calls) == len(seen) > 2
    for weights, (v, out) in zip(calls, seen, strict=True):
        assert (weights.float() @ v - out).abs().max() < 1e-5
    assert not any(block._forward_hooks for block in pipeline.module.model.backbone.layers())


def test_maps_are_of_the_picture_that_generate_draws(pipeline):
    maps = attention_maps(pipeline, "a cat", seed=4, **SAMPLING)
    (drawn,) = pipeline.generate("a cat", seed=4, **SAMPLING)
    assert np.array_equal(maps.picture, drawn)
    letters = tiny.tokenizer()
    assert maps.words == ["⟨begin⟩", *(letters.decode([i]) for i in letters.encode("a cat")), "⟨end⟩"]
    assert maps.weights.shape == (2, 4, 3, 3, len(maps.words)) and maps.weights.dtype == torch.float32
    order = make_order("random", 9, generator(4, "order", 0))
    assert maps.steps.flatten()[order].tolist() == list(range(9))


def test_the_prompt_is_all_there_is_to_look_at_but_the_picture_so_far(pipeline):
    maps = attention_maps(pipeline, "a cat", **SAMPLING)
    alone = attention_maps(pipeline, "a cat", **SAMPLING | {"guidance": 1.0})
    share = maps.weights.sum(-1)
    assert (maps.weights >= 0).all() and (share < 1).all()
    first = maps.steps == 0
    assert share[:, :, first].mean() > share[:, :, ~first].mean()
    # Beside the null prompt the words stand further right; the first token sees the same all the same.
    assert (maps.weights[:, :, first] - alone.weights[:, :, first]).abs().max() < 1e-5


def test_what_cannot_be_recorded_is_refused(pipeline):
    for settings in ({"candidates": 2}, {"rounds": 3}):
        with pytest.raises(ValueError, match="attention is that of one picture, token by token: .* leave rounds out"):
            attention_maps(pipeline, "a cat", **settings)
    module = make_module()
    module.configure_model()
    module.model.backbone.blocks[0] = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Decoder only"):
        attention_maps(Pipeline(module), "a cat")
