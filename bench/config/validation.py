"""Values checked against the signature of the function that takes them."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Registered

_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first complaint of pydantic as `<key>: expected …, got …. <what to do>`."""
    first = error.errors()[0]
    *path, last = [str(p) for p in first["loc"]] or ["file"]
    where = ".".join([*path, last])
    if first["type"] == "extra_forbidden":
        return f"{where}: expected a known key, got {last!r}. {did_you_mean(last, model.model_fields)}"
    if first["type"] == "missing":
        return f"{where}: expected a value, got nothing. Add the key {last!r}."
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    got = repr(first["input"])
    return f"{where}: expected {wanted}, got {got if len(got) <= 80 else got[:77] + '…'}. Mend it."


class Setting(NamedTuple):
    """What a setting may hold: scalar kind, whether it is a list of them, its choices, whether None is its default."""

    kind: type
    many: bool = False
    choices: tuple[Any, ...] = ()
    optional: bool = False

    def __str__(self) -> str:
        if self.choices:
            return "one of " + ", ".join(str(c) for c in self.choices)
        return f"a list, each {_KINDS[self.kind]}" if self.many else _KINDS[self.kind]


def settable(entry: Registered) -> dict[str, Setting]:
    """Return the arguments of a registered function that a user may set, and what each may hold."""
    return {name: setting_of(p.default, p.annotation) for name, p in entry.parameters.items()}


def setting_of(default: Any, annotation: Any) -> Setting:
    """Judge by the default's type; where it tells nothing, by the annotation."""
    choices, many, kinds = _unpack(annotation)
    if isinstance(default, tuple | list):
        return Setting(type(default[0]) if default else (kinds or [float])[0], True)
    if default is not None and default is not inspect.Parameter.empty and type(default) in _KINDS:
        return Setting(type(default), False, choices)
    kind = next((k for k in (float, int, bool, str) if k in kinds), str)
    return Setting(kind, many, choices, default is None)


def _unpack(annotation: Any) -> tuple[tuple[Any, ...], bool, list[type]]:
    """Return choices, whether it is a sequence, and the scalar kinds named by an annotation."""
    if annotation in _KINDS:
        return (), False, [annotation]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return arguments, False, [type(arguments[0])]
    parts = [_unpack(a) for a in arguments if a is not type(None) and a is not Ellipsis]
    origin = typing.get_origin(annotation)
    many = (isinstance(origin, type) and issubclass(origin, Sequence)) or any(p[1] for p in parts)
    return tuple(c for p in parts for c in p[0]), many, [k for p in parts for k in p[2]]


def read(where: str, text: str, setting: Setting) -> Any:
    """Return the value that a text stands for.

    Raises:
        UsageError: it does not read as the setting's kind.
    """
    if setting.many:
        single = setting._replace(many=False)
        return [read(where, item, single) for item in text.split("/")]
    if setting.optional and text.lower() == "none":
        return None
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[text.lower()] if setting.kind is bool else setting.kind(text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{where}: expected {setting}, got {text!r}. Write it so.") from error


def check(where: str, value: Any, setting: Setting) -> Any:
    """Return the value in its setting's type (a whole number where a float belongs becomes one, lists stay lists).

    Raises:
        UsageError: another type, not finite, or none of the choices (the nearest is suggested).
    """
    if value is None and setting.optional:
        return None
    if setting.many:
        items = value if isinstance(value, list | tuple) else [value]
        if not items:
            raise UsageError(f"{where}: expected {setting}, got an empty list. Give one value at least.")
        return [check(where, item, setting._replace(many=False)) for item in items]
    if setting.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not setting.kind or (isinstance(value, float) and not math.isfinite(value)):
        raise UsageError(f"{where}: expected {setting}, got {value!r}. Write it so.")
    if setting.choices and value not in setting.choices:
        raise UsageError(
            f"{where}: expected {setting}, got {value!r}. {did_you_mean(str(value), map(str, setting.choices))}"
        )
    return value


def shorten(value: Any) -> str:
    if isinstance(value, bool | None):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "/".join(shorten(v) for v in value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
