"""Values checked against the declared type and range of the argument that takes them."""

from __future__ import annotations

import contextlib
import reprlib
import typing
from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import BaseModel, TypeAdapter, ValidationError

from bench.config.problems import Problems
from bench.config.setting import Setting
from bench.core.arguments import FRACTION, LARGEST_INT, fraction
from bench.core.errors import UsageError, did_you_mean
from bench.core.text import is_plain

LONGEST_WORD: Final = 200  # characters of a value that is a text
_SCALAR: Final = (str, int, float, bool)


def read(where: str, text: str, setting: Setting) -> object:
    """Return the value that a text stands for; a list's items are separated by `/`.

    Args:
        where: what an error message begins with.
        text: without spaces around it, not empty.
        setting: type and range of the value.

    Raises:
        UsageError: it does not read as the setting's type, or is out of range.
    """
    if setting.optional and text.lower() == "none":
        return None
    if setting.many:
        return check(where, [_convert(where, item, setting) for item in text.split("/")], setting)
    return check(where, _convert(where, text, setting), setting)


def check(where: str, value: object, setting: Setting) -> object:
    """Return a value in its setting's type: a whole number or "8/255" becomes a float, lists stay lists.

    Args:
        where: what an error message begins with.
        value: from a suite file or a text.
        setting: type and range of the value.

    Raises:
        UsageError: another type, not finite, out of range, or none of the choices (the nearest is suggested); of a list
            every item that is.
    """
    if value is None and setting.optional:
        return None
    if not setting.many:
        return _check_one(where, value, setting)
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise UsageError(f"{where}: expected {setting}, got an empty list. Give at least one value.")
    found, problems = list[object](), Problems()
    for item in items:
        with problems.found_in():
            found.append(_check_one(where, item, setting.one()))
    problems.raise_if_any()
    return found


def right_items(value: object, setting: Setting) -> list[object]:
    """Return the items of a list that are of its setting's type and range: what further checks of it look at.

    Args:
        value: from a suite file or a text.
        setting: type and range of the value.
    """
    right: list[object] = []
    for item in value if isinstance(value, list | tuple) and setting.many else ():
        with contextlib.suppress(UsageError):
            right.append(_check_one("", item, setting.one()))
    return right


def check_defaults(where: str, defaults: Mapping[str, object], settings: Mapping[str, Setting]) -> None:
    """Refuse defaults that a user could not have set: the signature is somebody else's and not checked by Python.

    Args:
        where: what an error message begins with.
        defaults: by argument; numbers, words and lists of them are looked at, other objects are not.
        settings: what each argument may hold.

    Raises:
        UsageError: one is not finite, out of range, or a text that cannot be printed.
    """
    for name, value in defaults.items():
        items = value if isinstance(value, list | tuple) else [value]
        if items and all(isinstance(item, _SCALAR) for item in items):
            check(f"{where}: default of {name}", value, settings[name])


def _check_one(where: str, value: object, setting: Setting) -> object:
    """Return one value in its setting's type."""
    if setting.kind is float:
        value = fraction(value)
    try:
        found = setting.validate(value)
    except ValidationError as error:
        hint = did_you_mean(str(value), map(str, setting.choices)) if setting.choices else "Change the value."
        raise UsageError(f"{where}: expected {setting}, got {show(value)}. {hint}") from error
    if isinstance(found, str) and not is_plain(found, LONGEST_WORD):
        raise UsageError(
            f"{where}: expected {setting} of at most {LONGEST_WORD} printable characters, got {show(value)}. "
            "Change the value."
        )
    if isinstance(found, int) and abs(found) > LARGEST_INT:
        raise UsageError(f"{where}: expected {setting} below 2^63, got {show(value)}. Change the value.")
    return found


def _convert(where: str, text: str, setting: Setting) -> object:
    """Return the value of the setting's type that a text stands for, whatever its range."""
    if setting.choices:
        return next((choice for choice in setting.choices if str(choice) == text), text)
    if setting.kind is float and FRACTION.fullmatch(text):
        return fraction(text)
    try:
        return TypeAdapter(setting.kind).validate_python(text)
    except ValidationError as error:
        raise UsageError(f"{where}: expected {setting}, got {show(text)}. Change the value.") from error


def explained(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return the complaints of pydantic, each as `<key>: expected …, got …. <what to do>`.

    Args:
        error: the complaints.
        model: whose keys are suggested for an unknown one; those of its tables for one in a table.
    """
    return [_explained(one["type"], one["loc"], one["msg"], one["input"], model) for one in error.errors()]


def _explained(kind: str, place: tuple[int | str, ...], message: str, value: object, model: type[BaseModel]) -> str:
    *path, last = [str(p) for p in place] or ["file"]
    where = ".".join([*path, last])
    if kind == "extra_forbidden":
        return f"{where}: expected a known key, got {last!r}. {did_you_mean(last, table_of(model, path).model_fields)}"
    if kind == "missing":
        return f"{where}: expected a value, got nothing. Add the key {last!r}."
    wanted = _WANTED.get(kind) or message.removeprefix("Input should be ").removeprefix("Value error, ")
    wanted = wanted.replace("greater than or equal to ", "a number >= ").replace("greater than ", "a number > ")
    wanted = wanted.replace("less than or equal to ", "a number <= ").replace("less than ", "a number < ")
    return f"{where}: expected {wanted}, got {show(value)}. Change the value."


_WANTED: Final = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "too_short": "at least one",
    "string_pattern_mismatch": "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit",
}


def table_of(model: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    """Return the model of a table inside a file.

    Args:
        model: of the file.
        path: keys that lead to the table; where they leave the models, the last one is returned.
    """
    for name in path:
        field = model.model_fields.get(name)
        parts = [] if field is None else [field.annotation, *typing.get_args(field.annotation)]
        inner = next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)
        if inner is None:
            return model
        model = inner
    return model


def show(value: object) -> str:
    """Return a value as an error message shows it: at most about 80 characters, however large or deep it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    try:
        return short.repr(value)
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"


def shorten(value: object) -> str:
    """Return a value as a defense spec writes it, in its shortest form: `none`, `true`, `0.5/0.75`, `0.01`."""
    if isinstance(value, bool | None):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "/".join(shorten(v) for v in value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
