"""What a suite is: what is trained, how, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bench.config.defense_spec import canonical_spec, known_backbone, parse_defense
from bench.config.evaluation_config import EvaluationConfig, parse_evaluation
from bench.config.recipe_table import recipe_from
from bench.core import registry
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Recipe, ThreatModel
from bench.data.info import DATASETS


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
        threat: norm and radius, on [0, 1] pixels, of the attack that ranks the board.
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
    threat: ThreatModel
    audit: int
    holdout: int
    store_adversarial: Literal["primary", "all", "none"]
    defenses: tuple[str, ...]
    recipe: Recipe
    evaluations: tuple[EvaluationConfig, ...]
    forced: Recipe = field(default_factory=Recipe)

    @property
    def primary_eps(self) -> float:
        """The radius of the threat that ranks the board."""
        return self.threat.eps

    def recipe_of(self, spelling: str) -> Recipe:
        """Return a defense's complete recipe: its spelling over the command line over its own over the suite's."""
        spelled = parse_defense(spelling)
        own = registry.defenses.get(spelled.base).recipe
        return spelled.recipe.over(self.forced.over(own.over(self.recipe)))

    def backbone_of(self, spelling: str) -> str:
        """Return the backbone that a defense is built on."""
        return parse_defense(spelling).backbone or self.backbone

    def settings(self) -> dict[str, Any]:
        """Return the suite as plain data, for the plan and the manifest."""
        return {
            "name": self.name,
            "description": self.description,
            "source": self.source,
            "dataset": self.dataset,
            "backbone": self.backbone,
            "seeds": list(self.seeds),
            "threat": self.threat.settings(),
            "primary_eps": self.threat.eps,
            "audit": self.audit,
            "holdout": self.holdout,
            "store_adversarial": self.store_adversarial,
            "defenses": list(self.defenses),
            "recipe": self.recipe.settings(),
            "evaluations": {e.key: e.settings() for e in self.evaluations},
        }

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
            changes["defenses"] = check_defenses("--defense", defenses)
        if seeds:
            changes["seeds"] = check_seeds("--seeds", seeds)
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

    def _chosen(self, name: str) -> EvaluationConfig:
        own = {e.key: e for e in self.evaluations}
        if name in own:
            return own[name]
        if name not in registry.evaluations:
            known = {*own, *(e.name for e in registry.evaluations)}
            raise UsageError(f"--evaluation: expected a known evaluation, got {name!r}. {did_you_mean(name, known)}")
        return parse_evaluation("--evaluation", name, {}, DATASETS[self.dataset].shape)


def check_seeds(where: str, seeds: Sequence[int]) -> tuple[int, ...]:
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise UsageError(f"{where}: expected different whole numbers from 0, got {list(seeds)}. Write 0,1.")
    return tuple(seeds)


def check_defenses(where: str, spellings: Sequence[str]) -> tuple[str, ...]:
    try:
        names = [canonical_spec(s) for s in spellings]
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise UsageError(f"{where}: expected each defense once, got {twice!r} twice. Remove one.")
    return tuple(names)
