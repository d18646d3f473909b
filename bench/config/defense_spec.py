"""A defense spec: `NAME:key=value,key=value`, parsed once into a record."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.config.problems import Problems
from bench.config.recipe_table import recipe_fields, recipe_from
from bench.config.setting import settable
from bench.config.validation import read, shorten
from bench.core import registry
from bench.core.errors import UsageError, did_you_mean
from bench.core.recipe import Recipe


@dataclass(frozen=True, slots=True)
class DefenseSpec:
    """A registered defense and what a suite or a command changes in it.

    Attributes:
        name: the registered name.
        hyperparameters: the overridden ones only.
        recipe: the overridden fields only.
        backbone: canonical name; None for the suite's.
    """

    name: str
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    recipe: Recipe = field(default_factory=Recipe)
    backbone: str | None = None

    def __str__(self) -> str:
        """Return the canonical spec, which names the row: keys sorted, values in their shortest form."""
        given = {**self.hyperparameters, **self.recipe.settings()}
        if self.backbone is not None:
            given["backbone"] = self.backbone
        settings = ",".join(f"{key}={shorten(given[key])}" for key in sorted(given))
        return f"{self.name}:{settings}" if settings else self.name


def parse_defense_spec(text: str, where: str = "") -> DefenseSpec:
    """Read `NAME`, or `NAME:key=value,key=value`, where a key is a hyper-parameter, a recipe's field or `backbone`.

    Values have the type of the hyper-parameter; a list's items are separated by `/`, as in `milestones=0.5/0.75`. A
    name that is both hyper-parameter and recipe's field means the hyper-parameter.

    Args:
        text: the spec.
        where: what an error message begins with, e.g. "--defense"; "": nothing before the spec.

    Returns:
        The spec, its values checked and in their types.

    Raises:
        UsageError: unknown defense or key (the nearest is suggested), or values of the wrong type or range: all of
            them at once.
    """
    before, problems = f"{where}: " if where else "", Problems()
    name, given = split_defense_spec(text, before)
    parameters, fields = settable(registry.defenses.get(name, where)), recipe_fields()
    hyperparameters: dict[str, object] = {}
    recipe: dict[str, object] = {}
    backbone: str | None = None
    for key, value in given.items():
        place = f"{before}{name}:{key}"
        with problems.found_in():
            if key == "backbone":
                backbone = known_backbone(place, value)
            elif key in parameters:
                hyperparameters[key] = read(place, value, parameters[key])
            elif key in fields:
                recipe[key] = read(place, value, fields[key])
            else:
                hint = did_you_mean(key, [*parameters, *fields, "backbone"])
                raise UsageError(f"{before}{name}: expected one of its settings, got {key!r}. {hint}")
    with problems.found_in():
        changed = recipe_from(f"{before}{name}: ", recipe)
    problems.raise_if_any()
    return DefenseSpec(name, hyperparameters, changed, backbone)


def split_defense_spec(text: str, before: str = "") -> tuple[str, dict[str, str]]:
    """Return the name and the values of a defense spec as they are written, without looking anything up.

    Args:
        text: the spec.
        before: what an error message begins with.

    Raises:
        UsageError: not of the form `NAME:key=value,key=value`, or a key is there twice.
    """
    name, colon, rest = (part.strip() for part in text.partition(":"))
    given: dict[str, str] = {}
    for part in rest.split(",") if colon else []:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        where = before + (f"{name}:{key}" if key else f"defense {text!r}")
        if not equals or not key or not value:
            raise UsageError(
                f"{where}: expected NAME:key=value,key=value, got {part!r}. Write one key=value after each comma."
            )
        if key in given:
            raise UsageError(f"{where}: expected each key once, got it twice. Remove one.")
        given[key] = value
    return name, given


def normal_form(text: str) -> tuple[str, dict[str, str | float]]:
    """Return name and overrides of a defense spec, numbers as numbers: 1e-2 finds 0.01. Nothing is looked up.

    Args:
        text: a spec.
    """
    name, given = split_defense_spec(text)
    overrides: dict[str, str | float] = dict(given)
    for key, value in given.items():
        with contextlib.suppress(ValueError):
            overrides[key] = float(value)
    return name, overrides


def known_backbone(where: str, name: str) -> str:
    """Return the canonical name of a backbone: `resnet18`, `resnet18-w16`; the default width is left out.

    Raises:
        UsageError: there is none of that name.
    """
    from bench.models.backbones import canonical_backbone  # imports torch, which listing the suites does without

    canonical: str = canonical_backbone(name, where)
    return canonical
