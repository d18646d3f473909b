"""The fields of a recipe as a suite file or a defense spec sets them."""

from __future__ import annotations

import functools
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.config.validation import Setting, explain, setting_of
from bench.core.errors import UsageError
from bench.core.records import Precision, Recipe


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


@functools.cache
def recipe_fields() -> dict[str, Setting]:
    """Return the fields of a recipe that a spelling may set."""
    fields = RecipeTable.model_fields.items()
    return {name: setting_of(None, field.annotation)._replace(optional=False) for name, field in fields}
