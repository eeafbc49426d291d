"""Objects as plain data and back, and what a hostile config may not do."""

from __future__ import annotations

import json
import sys

import pytest
import tiny
from toy import make_module

from unifluid.backbones import Decoder
from unifluid.configs import ALLOWED, NOT_SET, build, describe, difference, factory_of
from unifluid.interfaces import Recorded

TINY = (*ALLOWED, "tiny")


class Odd(Recorded):
    def __init__(self, value: object, more: tuple[int, ...] = (1, 2)):
        self.value, self.more = value, more


def built():
    module = make_module(lam=0.3)
    module.configure_model()
    return module


def test_describing_what_was_built_gives_the_same_description():
    config = describe(built())
    assert json.loads(json.dumps(config)) == config
    again = build(config, TINY)
    again.configure_model()
    assert describe(again) == config
    assert again.lam == 0.3
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in built().named_parameters()}


def test_a_factory_is_described_by_what_it_made():
    """However it was written: here as a lambda that fixes a width."""
    part = (lambda vocabulary: Decoder(vocabulary, 32, depth=1, heads=2))(50)
    factory = factory_of(part, 1)
    assert describe(factory)["partial"] is True
    assert "vocab_size" not in describe(factory)["init_args"]
    remade = build(describe(factory))(60)
    assert (remade.vocab_size, remade.width, len(remade.blocks)) == (60, 32, 1)


def test_what_cannot_be_stored_is_named():
    with pytest.raises(ValueError, match=r"Odd\.value is .*object"):
        describe(Odd(object()))
    assert describe(Odd(3))["init_args"] == {"value": 3, "more": [1, 2]}


def test_the_first_difference_is_named():
    here, there = describe(make_module_built(lam=0.3)), describe(make_module_built(lam=0.3))
    assert difference(here, there) is None
    there["init_args"]["backbone"]["init_args"]["width"] = 99
    assert difference(here, there) == ("backbone.width", 32, 99)
    there["init_args"]["backbone"]["class_path"] = "other.Decoder"
    assert difference(here, there)[0] == "backbone"
    assert difference(describe(Odd(1)), describe(tiny.Letters()))[0] == ""


def test_a_difference_inside_a_dict_is_named():
    here, there = describe(Odd({"a": {"b": 1}, "c": 2})), describe(Odd({"a": {"b": 3}, "c": 2}))
    assert difference(here, there) == ("value.a.b", 1, 3)
    assert difference(here, describe(Odd({}))) == ("value.a.b", 1, NOT_SET)


def make_module_built(**options):
    module = make_module(**options)
    module.configure_model()
    return module


@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("antigravity.Flight", "outside the trusted packages.*--allow-module antigravity"),
        ("unifluidx.Thing", "outside the trusted packages"),
        ("Thing", "outside the trusted packages"),
        ("torch.hub.load", "no class that a checkpoint may name"),
        ("torch.nn.Linear", "no class that a checkpoint may name"),
        ("unifluid.backbones.Missing", "cannot be imported"),
        ("unifluid.nowhere.Missing", "cannot be imported"),
    ],
)
def test_untrusted_class_paths_are_refused(class_path, message):
    with pytest.raises(ValueError, match=message):
        build({"class_path": class_path, "init_args": {}})
    assert "antigravity" not in sys.modules  # refused before it was imported


def test_nested_class_paths_are_held_to_the_same_list():
    config = describe(built())
    config["init_args"]["text_tokenizer"]["class_path"] = "antigravity.Flight"
    with pytest.raises(ValueError, match="antigravity"):
        build(config, TINY)


def test_arguments_that_do_not_fit_are_an_error_not_a_crash():
    with pytest.raises(ValueError, match=r"Decoder does not take its stored arguments.*widht"):
        build({"class_path": "unifluid.backbones.Decoder", "init_args": {"vocab_size": 9, "widht": 3}})
