"""The fields of a recipe as a suite file or a defense spec sets them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from bench.config.setting import Setting, setting_of
from bench.config.validation import explained
from bench.core.arguments import LARGEST_INT
from bench.core.errors import UsageError
from bench.core.recipe import Augmentation, Precision, Recipe, Schedule


class RecipeTable(BaseModel):
    """The fields of a recipe as a suite or a defense spec may set them (units and meaning: `bench.Recipe`)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: Annotated[int, Interval(ge=1, le=LARGEST_INT)] | None = None
    batch_size: Annotated[int, Interval(ge=1, le=LARGEST_INT)] | None = None
    lr: Annotated[float, Gt(0)] | None = None
    momentum: Annotated[float, Interval(ge=0, lt=1)] | None = None
    weight_decay: Annotated[float, Ge(0)] | None = None
    schedule: Schedule | None = None
    milestones: Annotated[list[float], MinLen(1)] | None = None
    decay: Annotated[float, Interval(gt=0, le=1)] | None = None
    augment: Augmentation | None = None
    crop_padding: Annotated[int, Interval(ge=0, le=LARGEST_INT)] | None = None
    precision: Precision | None = None

    @field_validator("milestones")
    @classmethod
    def _rising(cls, milestones: list[float] | None) -> list[float] | None:
        """Refuse milestones that are not rising fractions of the epochs."""
        if milestones and (sorted(set(milestones)) != milestones or not all(0 < m < 1 for m in milestones)):
            raise ValueError("rising fractions between 0 and 1")
        return milestones

    def record(self) -> Recipe:
        """Return the same as a `Recipe`."""
        fields = self.model_dump()
        return Recipe(**fields | {"milestones": tuple(self.milestones) if self.milestones else None})


def recipe_from(before: str, fields: Mapping[str, object]) -> Recipe:
    """Return a checked recipe that sets only the given fields.

    Args:
        before: what stands before the field's name in an error message.
        fields: values by name; lists where the recipe has tuples.

    Raises:
        UsageError: an unknown field, or a value outside its range; all of them.
    """
    try:
        return RecipeTable.model_validate(fields).record()
    except ValidationError as error:
        raise UsageError(*(f"{before}{line}" for line in explained(error, RecipeTable))) from error


@functools.cache
def recipe_fields() -> dict[str, Setting]:
    """Return the fields of a recipe that a defense spec may set: each to a value, none to nothing."""
    fields = RecipeTable.model_fields.items()
    return {name: replace(setting_of(None, field.annotation), optional=False) for name, field in fields}
