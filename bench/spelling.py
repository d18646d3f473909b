"""How settings are spelled: `NAME:key=value,key=value` for a defense, and values checked against a signature."""

from __future__ import annotations

import functools
import inspect
import math
import re
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.core.errors import UsageError, nearest
from bench.core.records import RESERVED, Precision, Recipe

_KINDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}


class Spelling(NamedTuple):
    """A defense with what its spelling overrides.

    Attributes:
        base: the registered name.
        hyperparameters: the overridden ones only.
        recipe: the overridden fields only, None elsewhere.
        backbone: None for the suite's.
    """

    base: str
    hyperparameters: dict[str, Any]
    recipe: Recipe
    backbone: str | None

    def __str__(self) -> str:
        """Return the canonical spelling: keys sorted, values in their shortest form."""
        given = {**self.hyperparameters, **{k: v for k, v in self.recipe.settings().items() if v is not None}}
        if self.backbone is not None:
            given["backbone"] = self.backbone
        settings = ",".join(f"{key}={_short(given[key])}" for key in sorted(given))
        return f"{self.base}:{settings}" if settings else self.base


class RecipeTable(BaseModel):
    """The fields of a recipe as a suite or a spelling may set them (units and meaning: `bench.Recipe`)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0, allow_inf_nan=False)
    momentum: float | None = Field(None, ge=0, lt=1)
    weight_decay: float | None = Field(None, ge=0, allow_inf_nan=False)
    schedule: Literal["step", "onecycle"] | None = None
    milestones: list[float] | None = Field(None, min_length=1)
    decay: float | None = Field(None, gt=0, le=1)
    augment: Literal["none", "crop_flip", "crop"] | None = None
    crop_padding: int | None = Field(None, ge=0)
    precision: Precision | None = None

    def record(self) -> Recipe:
        """Return the same as a `Recipe`.

        Raises:
            ValueError: the milestones are not rising fractions.
        """
        fields = self.model_dump()
        if self.milestones is not None:
            if sorted(set(self.milestones)) != self.milestones or not all(0 < m < 1 for m in self.milestones):
                raise ValueError(f"expected rising fractions between 0 and 1, got {self.milestones}")
            fields["milestones"] = tuple(self.milestones)
        return Recipe(**fields)


def parse_defense(spelling: str) -> Spelling:
    """Read `NAME`, or `NAME:key=value,key=value`, where a key is a hyper-parameter, a recipe's field or `backbone`.

    Values have the type of the default; a list's items are separated by `/`, as in `milestones=0.5/0.75`. A name
    that is both hyper-parameter and recipe's field means the hyper-parameter.

    Raises:
        UsageError: unknown defense or key (the nearest is suggested), or a value of the wrong kind.
    """
    from bench.models.registry import defenses

    base, colon, rest = spelling.partition(":")
    base = base.strip()
    entry = defenses.get(base)
    parameters = settable(entry.function)
    fields = recipe_fields()
    hyperparameters: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    backbone: str | None = None
    seen: set[str] = set()
    for part in rest.split(",") if colon else []:
        key, equals, text = (piece.strip() for piece in part.partition("="))
        where = f"{base}:{key}" if key else f"defense {spelling!r}"
        if not equals or not key or not text:
            raise UsageError(f"{where}: expected NAME:key=value,key=value, got {part!r}. Write it so.")
        if key in seen:
            raise UsageError(f"{where}: expected each key once, got it twice. Remove one.")
        seen.add(key)
        if key == "backbone":
            backbone = known_backbone(where, text)
        elif key in parameters:
            hyperparameters[key] = check(where, read(where, text, parameters[key]), parameters[key])
        elif key in fields:
            recipe[key] = read(where, text, fields[key])
        else:
            known = [*parameters, *fields, "backbone"]
            raise UsageError(f"{base}: expected one of its settings, got {key!r}. {nearest(key, known)}")
    return Spelling(base, hyperparameters, recipe_from(base, recipe), backbone)


def known_backbone(where: str, name: str) -> str:
    """Return the name of a backbone, which may carry a width: `resnet18`, `resnet18-w16`.

    Raises:
        UsageError: there is none of that name.
    """
    from bench.models.backbones import BACKBONES

    if re.sub(r"-w[1-9]\d*$", "", name) not in BACKBONES:
        raise UsageError(f"{where}: expected a backbone or NAME-wWIDTH, got {name!r}. {nearest(name, BACKBONES)}")
    return name


def canonical(spelling: str) -> str:
    """Return the one way to spell a defense: `lcnn:lambda_gamma=1e-2,lambda_beta=1` is sorted and shortened."""
    return str(parse_defense(spelling))


def recipe_from(where: str, fields: dict[str, Any]) -> Recipe:
    """Return a checked recipe that sets only the given fields.

    Raises:
        UsageError: an unknown field, or a value outside its range.
    """
    try:
        return RecipeTable.model_validate(fields).record()
    except ValidationError as error:
        raise UsageError(f"{where}: {explain(error, RecipeTable)}") from error
    except ValueError as error:
        raise UsageError(f"{where}: milestones: {error}. Mend it.") from error


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first complaint of pydantic as `<key>: expected …, got …. <what to do>`."""
    first = error.errors()[0]
    *path, last = [str(p) for p in first["loc"]] or ["file"]
    where = ".".join([*path, last])
    if first["type"] == "extra_forbidden":
        return f"{where}: expected a known key, got {last!r}. {nearest(last, model.model_fields)}"
    if first["type"] == "missing":
        return f"{where}: expected a value, got nothing. Add the key {last!r}."
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    got = repr(first["input"])
    return f"{where}: expected {wanted}, got {got if len(got) <= 80 else got[:77] + '…'}. Mend it."


# --- values ---------------------------------------------------------------------------------------------------------


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


def settable(function: Callable[..., Any]) -> dict[str, Setting]:
    """Return the keyword-only arguments that a user may set, and what each may hold."""
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):  # a type that is imported for type checkers only
        hints = {}
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: _setting(p.default, hints.get(p.name, p.annotation))
        for p in parameters
        if p.kind is p.KEYWORD_ONLY and p.name not in RESERVED
    }


@functools.cache
def recipe_fields() -> dict[str, Setting]:
    """Return the fields of a recipe that a spelling may set."""
    fields = RecipeTable.model_fields.items()
    return {name: _setting(None, field.annotation)._replace(optional=False) for name, field in fields}


def _setting(default: Any, annotation: Any) -> Setting:
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
            f"{where}: expected {setting}, got {value!r}. {nearest(str(value), map(str, setting.choices))}"
        )
    return value


def _short(value: Any) -> str:
    if isinstance(value, bool | None):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "/".join(_short(v) for v in value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
