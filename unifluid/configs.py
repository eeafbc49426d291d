"""Objects as plain data, {class_path, init_args}, and back: what a checkpoint stores of a model beside its weights.

Everything the kit builds remembers its arguments (`interfaces.Recorded`), so it makes no difference whether YAML or
Python built it. Class paths come from files nobody vouches for: they are held against an allowlist before anything is
imported, and only `Recorded` classes are ever called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from unifluid.interfaces import Part, Recorded

Config = dict[str, Any]

NOT_SET = "not set"
ALLOWED = ("unifluid", "datamodules", "callbacks", "torch", "torchvision", "lightning", "timm")


def describe(obj: Recorded | functools.partial) -> Config:
    """`obj`, or a factory made by `factory_of`, as {class_path, init_args}; {…, partial: True} for a factory.

    Raises ValueError where an argument is neither plain data nor `Recorded`.
    """
    if isinstance(obj, functools.partial):
        return {"class_path": _path(obj.func), "init_args": _plain_args(obj.func, obj.keywords), "partial": True}
    return {"class_path": _path(type(obj)), "init_args": _plain_args(type(obj), obj.init_args)}


def factory_of(part: Part, given: int) -> functools.partial:
    """The factory that made `part`: its class and arguments, but for the first `given`, which its caller supplies."""
    return functools.partial(type(part), **dict(list(part.init_args.items())[given:]))


def build(config: Config, allowed: tuple[str, ...] = ALLOWED) -> Any:
    """The inverse of `describe`. Raises ValueError for a class outside the packages `allowed`, or one that is unfit."""
    if not _is_config(config):
        raise ValueError(f"a stored config must name a class_path and its init_args, got {config!r:.80}")
    cls = _import(config["class_path"], allowed)
    arguments = {name: _build(value, allowed) for name, value in config["init_args"].items()}
    try:
        return functools.partial(cls, **arguments) if config.get("partial") else cls(**arguments)
    except TypeError as error:
        raise ValueError(f"{config['class_path']} does not take its stored arguments: {error}") from error


def difference(here: Config, there: Config) -> tuple[str, Any, Any] | None:
    """The first setting in which two configs differ, as (name, value here, value there); None where none does."""
    ours, theirs = dict(_settings(here)), dict(_settings(there))
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs or ours[name] != theirs[name]:
            return name, ours.get(name, NOT_SET), theirs.get(name, NOT_SET)
    return None


def with_defaults(there: Config, here: Config) -> Config:
    """A stored config with the arguments that `here` has and it has not: newer, they had their default's effect in it.

    Parts are completed where both name the same class.
    """
    if there["class_path"] != here["class_path"]:
        return there
    defaults, given = _defaults(here["class_path"]), dict(there["init_args"])
    for name, value in here["init_args"].items():
        if name not in given and name in defaults:
            given[name] = plain(defaults[name], name)
        elif _is_config(value) and _is_config(given.get(name)):
            given[name] = with_defaults(given[name], value)
    return {**there, "init_args": given}


def _defaults(class_path: str) -> dict[str, Any]:
    """Of the arguments of a class in use; none of one inside another or a function, which no path leads to."""
    module, _, name = class_path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    except (ImportError, AttributeError):
        return {}
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def parts(config: Config) -> dict[str, Any]:
    """The arguments that are parts of the model themselves; how it is optimised is none of them."""
    return {name: value for name, value in config["init_args"].items() if _is_config(value) and name != "optimization"}


def _settings(config: Config, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names, as on the command line but without `init_args`, and their values."""
    yield name, config["class_path"]
    yield from _entries(config["init_args"], name)


def _entries(arguments: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    for key, value in arguments.items():
        key = f"{name}.{key}".lstrip(".")
        if _is_config(value):
            yield from _settings(value, key)
        elif isinstance(value, dict) and value:
            yield from _entries(value, key)
        else:
            yield key, value


def _is_config(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_path"), str)
        and isinstance(value.get("init_args"), dict)
    )


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _plain_args(cls: type, arguments: dict[str, Any]) -> Config:
    return {name: plain(value, f"{cls.__name__}.{name}") for name, value in arguments.items()}


def plain(value: Any, where: str) -> Any:
    """Plain data of a checkpoint, the same after a trip through JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(v, where) for v in value]
    if isinstance(value, dict):
        return {str(k): plain(v, where) for k, v in value.items()}
    if isinstance(value, Recorded | functools.partial):
        return describe(value)
    raise ValueError(
        f"{where} is {value!r}, which a checkpoint cannot store: give plain values, or a class derived from "
        f"{Recorded.__module__}.Recorded"
    )


def _build(value: Any, allowed: tuple[str, ...]) -> Any:
    if _is_config(value):
        return build(value, allowed)
    if isinstance(value, dict):
        return {k: _build(v, allowed) for k, v in value.items()}
    if isinstance(value, list):
        return [_build(v, allowed) for v in value]
    return value


def _import(class_path: str, allowed: tuple[str, ...]) -> type[Recorded]:
    module, _, name = class_path.rpartition(".")
    if module.split(".")[0] not in allowed:
        raise ValueError(
            f"{class_path} is outside the trusted packages ({', '.join(allowed)}); if you trust its code, "
            f"add --allow-module {class_path.split('.')[0]}"
        )
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{class_path} cannot be imported: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Recorded)):
        raise ValueError(f"{class_path} is no class that a checkpoint may name")
    return cls
