"""Suites: a TOML file in, a frozen and validated `Suite` out.

README shows one complete annotated file; the shipped ones under `bench/suites/` are examples as well.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.core.errors import UsageError, nearest
from bench.core.records import PAPER, Recipe
from bench.data.info import DATASETS
from bench.spelling import (
    RecipeTable,
    Spelling,
    canonical,
    check,
    explain,
    known_backbone,
    parse_defense,
    recipe_from,
    settable,
)

__all__ = ["EvaluationEntry", "Spelling", "Suite", "canonical", "load_suite", "parse_defense", "suites"]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


@dataclass(frozen=True, slots=True)
class EvaluationEntry:
    """One evaluation of a suite.

    Attributes:
        key: the suite's name for it, unique.
        evaluation: the registered name; usually the same.
        arguments: every keyword argument of the evaluation, defaults filled in, lists as lists.
        limit: first N images of the split; None means all.
        split: "test", or "train" without augmentation.
        seed: seed of the evaluation's own draws.
    """

    key: str
    evaluation: str
    arguments: dict[str, Any]
    limit: int | None = None
    split: Literal["test", "train"] = "test"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Suite:
    """What is trained, how, and what is measured.

    Attributes:
        name: of the file, and of the default result folder.
        description: one paragraph for readers of the board.
        source: where the settings come from; "" if they are ours.
        dataset: "digits", "two-moons", "cifar10", "cifar100" or "svhn".
        backbone: of every defense whose spelling does not name another.
        seeds: one training per defense and seed.
        primary_eps: the l2 radius on [0, 1] pixels that ranks the board.
        audit: images on which the official AutoAttack repeats ours.
        holdout: training images kept apart for choosing hyper-parameters.
        store_adversarial: whose adversarial examples are kept: of the primary radius, of all, of none.
        defenses: canonical spellings.
        recipe: complete; the suite's over the paper's.
        evaluations: in the order of the file.
        forced: what the command line sets for every defense, whatever its own recipe says.
    """

    name: str
    description: str
    source: str
    dataset: str
    backbone: str
    seeds: tuple[int, ...]
    primary_eps: float
    audit: int
    holdout: int
    store_adversarial: Literal["primary", "all", "none"]
    defenses: tuple[str, ...]
    recipe: Recipe
    evaluations: tuple[EvaluationEntry, ...]
    forced: Recipe = field(default_factory=Recipe)

    def recipe_of(self, spelling: str) -> Recipe:
        """Return a defense's complete recipe: its spelling over the command line over its own over the suite's."""
        from bench.models.registry import defenses

        spelled = parse_defense(spelling)
        own = defenses.get(spelled.base).recipe
        return spelled.recipe.over(self.forced.over(own.over(self.recipe)))

    def backbone_of(self, spelling: str) -> str:
        """Return the backbone that a defense is built on."""
        return parse_defense(spelling).backbone or self.backbone

    def settings(self) -> dict[str, Any]:
        """Return the suite as plain data, for the plan and the manifest."""
        return {
            "name": self.name, "description": self.description, "source": self.source, "dataset": self.dataset,
            "backbone": self.backbone, "seeds": list(self.seeds), "primary_eps": self.primary_eps,
            "audit": self.audit, "holdout": self.holdout, "store_adversarial": self.store_adversarial,
            "defenses": list(self.defenses), "recipe": self.recipe.settings(),
            "evaluations": {
                e.key: {
                    "evaluation": e.evaluation, "arguments": e.arguments, "limit": e.limit, "split": e.split,
                    "seed": e.seed,
                }
                for e in self.evaluations
            },
        }  # fmt: skip

    def narrowed(
        self,
        *,
        defenses: Sequence[str] | None = None,
        evaluations: Sequence[str] | None = None,
        seeds: Sequence[int] | None = None,
        limit: int | None = None,
        epochs: int | None = None,
        precision: str | None = None,
        backbone: str | None = None,
    ) -> Suite:
        """Return the suite as the command line changes it; None and empty leave a setting alone.

        Args:
            defenses: spellings that replace the suite's.
            evaluations: keys of the suite to keep; a registered evaluation that it lacks is added with its defaults.
            seeds: replace the suite's.
            limit: no evaluation sees more images than this; smaller limits of the suite stay.
            epochs: for every defense, whatever its own recipe says.
            precision: of training, for every defense likewise.
            backbone: replaces the suite's.

        Raises:
            UsageError: an unknown name, or a value out of range.
        """
        changes: dict[str, Any] = {}
        if defenses:
            changes["defenses"] = _spellings("--defense", defenses)
        if seeds:
            changes["seeds"] = _seeds("--seeds", seeds)
        if backbone:
            changes["backbone"] = known_backbone("--backbone", backbone)
        forced = self.forced
        if epochs is not None:
            forced = recipe_from("--epochs", {"epochs": epochs}).over(forced)
        if precision is not None:
            forced = recipe_from("--precision", {"precision": precision}).over(forced)
        chosen = (
            self.evaluations if not evaluations else tuple(self._chosen(name) for name in dict.fromkeys(evaluations))
        )
        if limit is not None:
            chosen = tuple(replace(e, limit=limit if e.limit is None else min(limit, e.limit)) for e in chosen)
        return replace(self, **changes, forced=forced, evaluations=chosen)

    def _chosen(self, name: str) -> EvaluationEntry:
        from bench.models import registry

        own = {e.key: e for e in self.evaluations}
        if name in own:
            return own[name]
        if name not in registry.evaluations:
            known = {*own, *(e.name for e in registry.evaluations)}
            raise UsageError(f"--evaluation: expected a known evaluation, got {name!r}. {nearest(name, known)}")
        return _entry("--evaluation", name, {}, DATASETS[self.dataset].shape)


# --- reading --------------------------------------------------------------------------------------------------------


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


class _EntryTable(BaseModel):
    """The keys of `[evaluations.<key>]` that are not the evaluation's own arguments."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    evaluation: str = ""
    limit: int | None = Field(None, ge=1)
    split: Literal["test", "train"] = "test"
    seed: int = Field(0, ge=0)


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
        hint = nearest(file.dataset, DATASETS)
        raise UsageError(f"{where}: dataset: expected a known data set, got {file.dataset!r}. {hint}")
    shape = DATASETS[file.dataset].shape
    suite = Suite(
        name=file.name,
        description=" ".join(file.description.split()),
        source=file.source,
        dataset=file.dataset,
        backbone=known_backbone(f"{where}: backbone", file.backbone),
        seeds=_seeds(f"{where}: seeds", file.seeds),
        primary_eps=_radii(f"{where}: primary_eps", [file.primary_eps], "l2", shape)[0],
        audit=file.audit,
        holdout=file.holdout,
        store_adversarial=file.store_adversarial,
        defenses=_spellings(f"{where}: defenses", file.defenses),
        recipe=_recipe(where, file.recipe),
        evaluations=tuple(
            _entry(f"{where}: evaluations.{key}", key, table, shape) for key, table in file.evaluations.items()
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
    raise UsageError(f"--suite: expected a suite's name or a TOML file, got {text!r}. {nearest(text, _shipped())}")


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


def _seeds(where: str, seeds: Sequence[int]) -> tuple[int, ...]:
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise UsageError(f"{where}: expected different whole numbers from 0, got {list(seeds)}. Write 0,1.")
    return tuple(seeds)


def _spellings(where: str, spellings: Sequence[str]) -> tuple[str, ...]:
    try:
        names = [canonical(s) for s in spellings]
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise UsageError(f"{where}: expected each defense once, got {twice!r} twice. Remove one.")
    return tuple(names)


def _entry(where: str, key: str, table: dict[str, Any], shape: tuple[int, int, int]) -> EvaluationEntry:
    """Check one `[evaluations.<key>]` against its evaluation's signature and fill in the defaults."""
    from bench.models.registry import evaluations

    try:
        head = _EntryTable.model_validate(table)
    except ValidationError as error:
        raise UsageError(f"{where}.{explain(error, _EntryTable)}") from error
    name = head.evaluation or key
    try:
        entry = evaluations.get(name)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    known = settable(entry.function)
    arguments = dict(entry.hyperparameters)
    for argument, value in (head.model_extra or {}).items():
        if argument not in known:
            hint = nearest(argument, [*known, *_EntryTable.model_fields])
            raise UsageError(f"{where}: expected an argument of {name}, got {argument!r}. {hint}")
        arguments[argument] = check(f"{where}.{argument}", value, known[argument])
    for argument, value in arguments.items():
        if value is ...:
            raise UsageError(f"{where}: expected {argument}, which {name} needs, got nothing. Add it.")
        if argument in ("eps", "radius"):
            norm = "linf" if name.endswith("_linf") else "l2"
            arguments[argument] = _radii(f"{where}.{argument}", value, norm, shape)
        elif isinstance(value, tuple):
            arguments[argument] = list(value)
    return EvaluationEntry(key, name, arguments, head.limit, head.split, head.seed)


def _radii(where: str, values: Any, norm: str, shape: tuple[int, int, int]) -> list[float]:
    """Return radii sorted, each once; none may be larger than the box [0, 1]^d itself, which 128 for 128/255 is."""
    from bench.measuring.attack_columns import check_budgets

    return check_budgets(where, list(values) if isinstance(values, list | tuple) else [values], norm, shape)


def _check_primary(where: str, suite: Suite) -> None:
    """Refuse a suite whose board could not be ranked because no attack uses the ranking radius."""
    used = [e for e in suite.evaluations if "eps" in e.arguments]
    if used and not any(suite.primary_eps in e.arguments["eps"] for e in used):
        tried = ", ".join(f"{e.key} {e.arguments['eps']}" for e in used)
        raise UsageError(
            f"{where}: primary_eps: expected a radius that an attack of the suite uses ({tried}), got "
            f"{suite.primary_eps:g}. Add it to one of them."
        )
