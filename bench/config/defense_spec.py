"""A defense spec: `NAME:key=value,key=value`, parsed once into a record."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from bench.config.recipe_table import recipe_fields, recipe_from
from bench.config.validation import check, read, settable, shorten
from bench.core import registry
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Recipe


class DefenseSpec(NamedTuple):
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
        settings = ",".join(f"{key}={shorten(given[key])}" for key in sorted(given))
        return f"{self.base}:{settings}" if settings else self.base


def parse_defense(spelling: str) -> DefenseSpec:
    """Read `NAME`, or `NAME:key=value,key=value`, where a key is a hyper-parameter, a recipe's field or `backbone`.

    Values have the type of the default; a list's items are separated by `/`, as in `milestones=0.5/0.75`. A name
    that is both hyper-parameter and recipe's field means the hyper-parameter.

    Raises:
        UsageError: unknown defense or key (the nearest is suggested), or a value of the wrong kind.
    """
    base, colon, rest = spelling.partition(":")
    base = base.strip()
    entry = registry.defenses.get(base)
    parameters = settable(entry)
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
            raise UsageError(f"{base}: expected one of its settings, got {key!r}. {did_you_mean(key, known)}")
    return DefenseSpec(base, hyperparameters, recipe_from(base, recipe), backbone)


def known_backbone(where: str, name: str) -> str:
    """Return the name of a backbone, which may carry a width: `resnet18`, `resnet18-w16`.

    Raises:
        UsageError: there is none of that name.
    """
    from bench.models.backbones import BACKBONES

    if re.sub(r"-w[1-9]\d*$", "", name) not in BACKBONES:
        raise UsageError(f"{where}: expected a backbone or NAME-wWIDTH, got {name!r}. {did_you_mean(name, BACKBONES)}")
    return name


def canonical_spec(spelling: str) -> str:
    """Return the one way to spell a defense: `lcnn:lambda_gamma=1e-2,lambda_beta=1` is sorted and shortened."""
    return str(parse_defense(spelling))
