"""Single parts of a run, built from its settings as `fit` would build them."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser
from torch import Tensor

from unifluid.checkpoints import read
from unifluid.configs import Config
from unifluid.init_from import keep_named
from unifluid.interfaces import ImageTokenizer
from unifluid.paligemma import is_paligemma
from unifluid.weights import fit

PLACES = {"image_tokenizer": "model.image_tokenizer.", "tokenizer": "tokenizer."}  # argument of a module: its weights


def parse(kind: type, name: str, args: list[str]) -> Config:
    """`--NAME=CLASS --NAME.ARGUMENT=VALUE …` -> class path and all arguments."""
    if not any(arg.partition("=")[0] in (f"--{name}", f"--{name}.class_path") for arg in args):
        raise ValueError(f"missing: --{name} CLASS")
    return _parser(kind, name).parse_args(args)[name].as_dict()


def instantiate(kind: type, name: str, config: Config) -> Any:
    """An object of `kind`; errors name its arguments `name`.argument."""
    parser = _parser(kind, name)
    return parser.instantiate(parser.parse_object({name: config}))[name]


def _parser(kind: type, name: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_subclass_arguments(kind, name, required=True)
    return parser


def mixture(data: Config) -> dict[str, Any]:
    """The arguments of a run's datamodules.Mixture. Raises ValueError where it has other data."""
    arguments = data.get("init_args", {})
    if "streams" not in arguments:
        raise ValueError(f"{data['class_path']} has no streams: the data of datamodules.Mixture is needed")
    return arguments


def image_tokenizer(model: Config) -> ImageTokenizer:
    """The one a run would start with, its weights read."""
    arguments = model.get("init_args", {})
    place = place_of(model, "model")
    tokenizer = instantiate(ImageTokenizer, "tokenizer", arguments[place])
    tokenizer.load_pretrained()
    source = arguments.get("init_from")
    if source is not None and not is_paligemma(source):  # which has none
        stored = read(source, arguments.get("init_weights"))
        keep_named(model, stored, PLACES[place].removesuffix(f"{place}."))
        tensors = weights_at(place, stored.tensors)
        if tensors:
            fit(tokenizer, tensors, source)
    return tokenizer


def place_of(model: Config, source: str) -> str:
    """The argument that is the image tokenizer. Raises ValueError, naming the `source`, where there is none."""
    place = next((place for place in PLACES if place in model.get("init_args", {})), None)
    if place is None:
        raise ValueError(f"{source}: {model['class_path']} has no image tokenizer")
    return place


def weights_at(place: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the image tokenizer among the `tensors` of a whole model."""
    prefix = PLACES[place]
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
