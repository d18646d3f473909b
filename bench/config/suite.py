"""What a suite is: what is trained, how, and what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from bench.config.defense_spec import DefenseSpec, known_backbone, parse_defense_spec
from bench.config.evaluation_config import EvaluationConfig, parse_evaluation
from bench.config.problems import Problems
from bench.config.recipe_table import recipe_from
from bench.config.validation import show
from bench.core import registry
from bench.core.arguments import LARGEST_INT
from bench.core.errors import UsageError, did_you_mean
from bench.core.recipe import Recipe, TrainingRecipe
from bench.core.records import ThreatModel
from bench.data.own import OwnData


@dataclass(frozen=True, slots=True)
class Suite:
    """What is trained, how, and what is measured.

    Attributes:
        name: of the file, and of the default result folder.
        description: one paragraph for readers of the board.
        source: where the settings come from; "" if they are ours.
        dataset: "digits", "two-moons", "cifar10", "cifar100" or "svhn"; or the name of a folder of one's own.
        backbone: of every defense whose spec does not name another.
        seeds: one training per defense and seed.
        threat: norm and radius, on [0, 1] pixels, of the attack that ranks the board.
        audit: images on which the official AutoAttack repeats ours.
        repeat: images on which every stage of AutoAttack runs alone, several times.
        holdout: training images kept apart for choosing hyper-parameters.
        store_adversarial: whose adversarial examples are kept: of the primary radius, of all, of none.
        defenses: one row of the board each.
        recipe: the suite's over the paper's.
        evaluations: in the order of the file.
        own: that folder, and how it is read; None: a named data set.
        shape: (C, H, W) of an image.
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
    repeat: int
    holdout: int
    store_adversarial: Literal["primary", "all", "none"]
    defenses: tuple[DefenseSpec, ...]
    recipe: TrainingRecipe
    evaluations: tuple[EvaluationConfig, ...]
    shape: tuple[int, int, int]
    own: OwnData | None = None
    forced: Recipe = field(default_factory=Recipe)

    @property
    def primary_eps(self) -> float:
        """The radius of the threat that ranks the board."""
        return self.threat.eps

    @property
    def drawn(self) -> dict[str, int]:
        """How many images the evaluations that a key of the suite asks for are run on, by that key."""
        return {"audit": self.audit, "repeat": self.repeat}

    def recipe_of(self, spec: DefenseSpec) -> TrainingRecipe:
        """Return a defense's recipe: its spec over the command line over the defense's own over the suite's."""
        return self.recipe.with_overrides(registry.defenses.get(spec.name).recipe, self.forced, spec.recipe)

    def backbone_of(self, spec: DefenseSpec) -> str:
        """Return the backbone that a defense is built on."""
        return spec.backbone or self.backbone

    def with_overrides(
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
            defenses: specs that replace the suite's.
            evaluations: keys of the suite to keep; a registered evaluation that it lacks is added with its defaults.
            seeds: replace the suite's.
            limit: no evaluation sees more images than this; smaller limits of the suite stay.
            epochs: for every defense, whatever its own recipe says.
            precision: of training, for every defense likewise.
            backbone: replaces the suite's.

        Raises:
            UsageError: an unknown name, or a value out of range.
        """
        forced = self.forced
        if epochs is not None:
            forced = forced.with_overrides(recipe_from("--", {"epochs": epochs}))
        if precision is not None:
            forced = forced.with_overrides(recipe_from("--", {"precision": precision}))
        chosen = tuple(self._evaluation(name) for name in dict.fromkeys(evaluations or ())) or self.evaluations
        if limit is not None:
            chosen = tuple(replace(e, limit=limit if e.limit is None else min(limit, e.limit)) for e in chosen)
        return replace(
            self,
            defenses=check_defenses("--defense", defenses) if defenses else self.defenses,
            seeds=check_seeds("--seeds", seeds) if seeds else self.seeds,
            backbone=known_backbone("--backbone", backbone) if backbone else self.backbone,
            forced=forced,
            evaluations=chosen,
        )

    def _evaluation(self, name: str) -> EvaluationConfig:
        own = {e.key: e for e in self.evaluations}
        if name in own:
            return own[name]
        if name not in registry.evaluations:
            known = {*own, *(e.name for e in registry.evaluations)}
            raise UsageError(f"--evaluation: expected a known evaluation, got {name!r}. {did_you_mean(name, known)}")
        return parse_evaluation("--evaluation", name, {}, self.shape)


def check_seeds(where: str, seeds: Sequence[int]) -> tuple[int, ...]:
    """Return training seeds as a tuple.

    Raises:
        UsageError: one is negative, or there twice.
    """
    if min(seeds) < 0 or max(seeds) > LARGEST_INT or len(set(seeds)) != len(seeds):
        raise UsageError(
            f"{where}: expected different whole numbers from 0 to 2^63, got {show(list(seeds))}. Name each seed once."
        )
    return tuple(seeds)


def check_defenses(where: str, texts: Sequence[str]) -> tuple[DefenseSpec, ...]:
    """Parse the defense specs of a suite or a command.

    Args:
        where: what an error message begins with.
        texts: the specs as written.

    Returns:
        The specs in the order of the texts.

    Raises:
        UsageError: some cannot be parsed, or are there twice; all of them are named.
    """
    problems, specs = Problems(), []
    for text in texts:
        with problems.found_in():
            specs.append(parse_defense_spec(text, where))
    names = [str(spec) for spec in specs]
    for twice in dict.fromkeys(n for n in names if names.count(n) > 1):
        problems.add(f"{where}: expected each defense once, got {twice!r} twice. Remove one.")
    problems.raise_if_any()
    return tuple(specs)
