"""Suites: a TOML file in, a frozen and validated `Suite` out.

README shows one complete annotated file; the shipped ones under `bench/suites/` are examples as well.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.config.defense_spec import known_backbone
from bench.config.evaluation_config import check_radii, parse_evaluation
from bench.config.recipe_table import RecipeTable
from bench.config.suite import Suite, check_defenses, check_seeds
from bench.config.validation import explain
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import PAPER, Recipe
from bench.data.info import DATASETS

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class _File(BaseModel):
    """A suite file's keys, types and ranges; names are looked up in the registries afterwards."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME)
    description: str = Field(min_length=1)
    source: str = ""
    dataset: str
    backbone: str = Field(pattern=_NAME)
    seeds: list[int] = Field(min_length=1)
    primary_eps: float = Field(gt=0, allow_inf_nan=False)
    audit: int = Field(0, ge=0)
    holdout: int = Field(0, ge=0)
    store_adversarial: Literal["primary", "all", "none"] = "primary"
    defenses: list[str] = Field(min_length=1)
    recipe: RecipeTable = Field(default_factory=lambda: RecipeTable.model_validate({}))
    evaluations: dict[str, dict[str, Any]] = Field(min_length=1)


def load_suite(name_or_path: str | Path) -> Suite:
    """Return a shipped suite by name, or one from a TOML file.

    Raises:
        UsageError: no such suite or file, not TOML, an unknown or missing key, a value of the wrong type or range,
            an unknown defense, evaluation or argument. One line: file, key, expected, got, nearest name.
    """
    path = _locate(name_or_path)
    where = path.name
    file = _parse(path)
    if file.dataset not in DATASETS:
        hint = did_you_mean(file.dataset, DATASETS)
        raise UsageError(f"{where}: dataset: expected a known data set, got {file.dataset!r}. {hint}")
    shape = DATASETS[file.dataset].shape
    suite = Suite(
        name=file.name,
        description=" ".join(file.description.split()),
        source=file.source,
        dataset=file.dataset,
        backbone=known_backbone(f"{where}: backbone", file.backbone),
        seeds=check_seeds(f"{where}: seeds", file.seeds),
        primary_eps=check_radii(f"{where}: primary_eps", [file.primary_eps], "l2", shape)[0],
        audit=file.audit,
        holdout=file.holdout,
        store_adversarial=file.store_adversarial,
        defenses=check_defenses(f"{where}: defenses", file.defenses),
        recipe=_recipe(where, file.recipe),
        evaluations=tuple(
            parse_evaluation(f"{where}: evaluations.{key}", key, table, shape)
            for key, table in file.evaluations.items()
        ),
    )
    _check_primary(where, suite)
    return suite


def suites() -> list[dict[str, Any]]:
    """Return the shipped suites as plain data; the registries stay untouched, so torch is not imported."""
    found = []
    for name, path in sorted(_shipped().items()):
        file = _parse(path)
        found.append({
            "name": name, "source": file.source or "ours", "version": 1, "hyperparameters": {},
            "description": " ".join(file.description.split()), "dataset": file.dataset, "backbone": file.backbone,
            "seeds": file.seeds, "primary_eps": file.primary_eps, "defenses": file.defenses,
            "evaluations": list(file.evaluations),
        })  # fmt: skip
    return found


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("bench") / "suites"))
    return {path.stem: path for path in folder.glob("*.toml")}


def _locate(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in _shipped():
        return _shipped()[text]
    if text.endswith(".toml") or "/" in text or "\\" in text:
        if Path(text).is_file():
            return Path(text)
        raise UsageError(
            f"--suite: expected a suite's name or a TOML file, got {text!r}, which is none. Check the path."
        )
    raise UsageError(f"--suite: expected a suite's name or a TOML file, got {text!r}. {did_you_mean(text, _shipped())}")


def _parse(path: Path) -> _File:
    """Read a file and check its keys, types and ranges."""
    where = path.name
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: expected TOML, got {error}. Mend that line.") from error
    except OSError as error:
        raise UsageError(f"{where}: expected a readable file, got {error.strerror}. Check its mode.") from error
    except ValidationError as error:
        in_recipe = error.errors()[0]["loc"][:1] == ("recipe",)
        raise UsageError(f"{where}: {explain(error, RecipeTable if in_recipe else _File)}") from error


def _recipe(where: str, table: RecipeTable) -> Recipe:
    try:
        return table.record().over(PAPER)
    except ValueError as error:
        raise UsageError(f"{where}: recipe.milestones: {error}. Mend it.") from error


def _check_primary(where: str, suite: Suite) -> None:
    """Refuse a suite whose board could not be ranked because no attack uses the ranking radius."""
    used = [e for e in suite.evaluations if "eps" in e.arguments]
    if used and not any(suite.primary_eps in e.arguments["eps"] for e in used):
        tried = ", ".join(f"{e.key} {e.arguments['eps']}" for e in used)
        raise UsageError(
            f"{where}: primary_eps: expected a radius that an attack of the suite uses ({tried}), got "
            f"{suite.primary_eps:g}. Add it to one of them."
        )
