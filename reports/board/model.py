"""The board as data: what the tables compute and what page, figures and exports show. One source for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from bench.core.handed_over import PROVENANCE
from bench.core.records import Column, Grade, Role, ThreatModel
from bench.reports import formatting
from bench.reports.board.audits import AuditBadge
from bench.reports.board.challenges import AppliedChallenge
from bench.reports.board.columns import BoardColumn, with_role
from bench.reports.board.contested import Contested
from bench.reports.board.parts import Apart, Bracket, Cell, Pair, RunFacts
from bench.reports.board.pictures import StoredImages
from bench.reports.board.repeats import Repeat
from bench.reports.board.row_trust import RowTrust
from bench.reports.board.training_cost import RelativeTime
from bench.reports.claims.records import Claims
from bench.store.board_plan import BoardPlan
from bench.store.plan_record import PlanRecord, RunRecord


@dataclass(frozen=True)
class Row:
    """One defense on the board.

    Attributes:
        rank: integer place by the ranking column (1 = best); None for a row that is not ranked.
        rank_low: best place it can hold, 1 + number of defenses significantly better.
        rank_high: worst place it can hold, K - number of defenses significantly worse.
        defense: its spec as on the command line with sorted keys, e.g. "lcnn:lambda_beta=0.01".
        anchor: a safe identifier for files, links and permalinks.
        seeds: training seeds behind the numbers.
        planned_seeds: how many the plan has.
        incomplete: what the row lacks of its seeds, images or evaluations, "" if nothing; such a row is not ranked.
        n: distinct images of the ranking column.
        cells: board column to number; a column is absent only if its evaluation was not run.
        assessment: its trust, that of its worst seed.
        repeats: seed to what each attack alone broke, and the bound on a repeat of the same attacks.
        bound_violations: None where no bound applies.
        train_operations: mean over seeds of the counted operations of a whole training.
        train_flops: ratio of that to Standard's in the same run; None without Standard, or where it was not counted.
        train_seconds: mean over seeds of the training's CPU time, or of the GPU's own time.
        train_cost: mean over seeds of its ratio to Standard's in the same run; None without Standard, or in doubt.
        train_time: the seeds' own ratios, and the doubt; None without Standard.
        eval_seconds: mean over seeds of the CPU time, or GPU's own time, of all its evaluations.
        eval_forwards: mean over seeds of images passed forward in all its evaluations.
        eval_backwards: likewise backward.
        runs: seed to what plan and store say of that run.
        failures: evaluations or trainings that failed, each with its cause.
        missing: what has not been run to its end yet, each with how far it came.
        unranked: why the row has no rank, "" if it has one.
        apart: place of a randomised row among the randomised ones; None for all others, and where it has none.
        brackets: what is proved and what is broken, at each budget at which some row has anything proved.
        audit: what risk-limiting audits say of its models; None: they were not audited.
        variance: of the ranking column's number, by source, kept apart: "images", "training" seeds, "attack" seeds;
            None where there is only one. Empty for a row that is not ranked.
    """

    rank: int | None
    rank_low: int | None
    rank_high: int | None
    defense: str
    anchor: str
    seeds: tuple[int, ...]
    n: int
    cells: dict[str, Cell]
    planned_seeds: int = 0
    incomplete: str = ""
    assessment: RowTrust = field(default_factory=RowTrust)
    repeats: Mapping[int, Repeat] = field(default_factory=dict)
    bound_violations: int | None = None
    train_operations: float | None = None
    train_flops: float | None = None
    train_seconds: float | None = None
    train_cost: float | None = None
    train_time: RelativeTime | None = None
    eval_seconds: float | None = None
    eval_forwards: int | None = None
    eval_backwards: int | None = None
    runs: dict[int, RunFacts] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unranked: str = ""
    apart: Apart | None = None
    brackets: tuple[Bracket, ...] = ()
    audit: AuditBadge | None = None
    variance: dict[str, float | None] = field(default_factory=dict)

    @property
    def entry(self) -> RunRecord:
        """The plan's entry of its first run."""
        return next(iter(self.runs.values())).entry

    @property
    def title(self) -> str:
        """Its name for readers, with the settings that differ from the defense's own; the spec where it has none."""
        if not self.entry.title:
            return self.defense
        settings = self.defense.partition(":")[2]
        return f"{self.entry.title} ({settings.replace(',', ', ')})" if settings else self.entry.title

    @property
    def architecture(self) -> str:
        """What it is built on: a backbone of ours, or the class of a network that was handed over."""
        return self.entry.backbone or str(next(iter(self.runs.values())).training.get("architecture", ""))

    @property
    def parameters(self) -> int | None:
        """Trained numbers of one model; None where they were not counted."""
        found = next(iter(self.runs.values())).training.get("parameters")
        return None if found is None else int(found)

    @property
    def venue(self) -> str:
        """Where its paper appeared; "" if unknown."""
        return self.entry.venue

    @property
    def year(self) -> int | None:
        """When its paper appeared; None if unknown."""
        return self.entry.year

    @property
    def link(self) -> str:
        """Address of its paper; "" without one."""
        return self.entry.link

    @property
    def handed_over(self) -> str:
        """Where the weights of a model that was trained elsewhere come from, in words; "" if it was trained here."""
        if self.entry.provenance != PROVENANCE:
            return ""
        given = next(iter(self.runs.values())).training.get("handed_over")
        if not isinstance(given, dict):
            return "trained elsewhere"
        network = f"network from {given['factory']}"
        if not given["weights"]:
            return f"trained elsewhere; {network}, with its weights"
        return f"trained elsewhere; weights {given['weights']}, SHA-256 {given['sha256']}; {network}"

    @property
    def randomised(self) -> bool:
        """Whether its models are randomised: they are judged by votes and ranked apart."""
        return any(run.training.get("randomised") for run in self.runs.values())

    @property
    def rank_randomised(self) -> int | None:
        """Place among the randomised rows; None for others."""
        return None if self.apart is None else self.apart.rank

    def bracket(self, eps: float | None) -> Bracket | None:
        """Return what is proved and what is broken at a budget; None where no row has anything proved there.

        Args:
            eps: the budget, in the board's norm; None: there is none.
        """
        return next((bracket for bracket in self.brackets if bracket.eps == eps), None)

    @property
    def trust(self) -> Grade | None:
        """The grade of its worst seed; None where trust was not assessed."""
        return self.assessment.grade

    @property
    def trust_failed(self) -> tuple[str, ...]:
        """Names of the checks that failed on any seed."""
        return self.assessment.failed

    @property
    def is_upper_bound(self) -> bool:
        """Whether it is complete, but its robust accuracies are upper bounds only (grade C)."""
        return self.trust is Grade.C and not self.incomplete

    @property
    def doubt(self) -> str:
        """Why its numbers are not to be taken as they are: invalid, incomplete, an upper bound only; "" if they are."""
        if self.trust is not Grade.INVALID and self.incomplete:
            return f"incomplete: {self.incomplete}"
        what = {Grade.INVALID: "invalid", Grade.C: "an upper bound only"}.get(self.trust or Grade.A)
        who = f" ({self.assessment.who})" if self.assessment.who else ""
        return f"{what}: {'; '.join(self.assessment.reasons)}{who}" if what else ""

    @property
    def standing(self) -> Literal["ranked", "randomised", "bound", "invalid", "incomplete", "other"]:
        """Where it stands: among the ranked rows, the randomised ones, the bounds, or below, each for its reason."""
        if self.rank is not None:
            return "ranked"
        if self.apart is not None:
            return "randomised"
        if self.incomplete:
            return "incomplete"
        if self.trust is Grade.INVALID:
            return "invalid"
        return "bound" if self.is_upper_bound else "other"

    @property
    def trainings(self) -> dict[int, Mapping[str, Any]]:
        """Seed to the stored facts of its finished training."""
        return {seed: run.training for seed, run in self.runs.items() if run.training.get("weights")}

    def own(self, column: BoardColumn) -> int | float | str | None:
        """Return the row's value in one of the board's own columns, as leaderboard.csv has it; None if missing.

        Args:
            column: one of `columns.OWN`, of `bracket_columns`, or the column of violations.
        """
        if column.facts.role == "violations":
            return self.bound_violations
        if column.facts.pattern:
            bracket = self.bracket(column.level)
            return None if bracket is None else bracket.told(column.facts.pattern)
        derived: dict[str, int | str] = {
            "seeds": len(self.seeds),
            "trust": "" if self.trust is None else self.trust.name,
            "trust_failed": ";".join(self.trust_failed),
        }
        value: int | float | str | None = derived.get(column.name, getattr(self, column.name))
        return value

    def value(self, column: BoardColumn | None) -> float | None:
        """Return the row's number in a measured column; None where there is none.

        Args:
            column: of the board; None: there is no such column.
        """
        cell = None if column is None else self.cells.get(column.name)
        return None if cell is None or cell.value is None or np.isnan(cell.value) else cell.value


@dataclass(frozen=True)
class Board:
    """Everything the page shows.

    Attributes:
        plan: the last command's suite, data, environment and command, with the rows and evaluations that are shown.
        rows: ranked rows first (by rank), then upper bounds, then the others, incomplete ones last.
        columns: the board's columns in the order of leaderboard.csv, its own (`columns.OWN`) among the measured ones.
        examples: the joined per-example table (defense, seed, index, label + columns).
        ranking: name of the column that ranks; "" if none was run.
        resolvable: smallest gap of the ranking column that its n can resolve after correction for all pairs, as a
            fraction.
        logs: (defense, seed) to the training log, one record per epoch.
        train_examples: likewise for evaluations on training images (columns begin with train_); never joined.
        pairs: all pairs of ranked rows, in the order of their ranks.
        adversarial: (defense, seed) to some of the adversarial examples of the ranking evaluation.
        contested: the images that tell the ranked defenses apart; None where there are none.
        challenges: accepted ones against models of the board, the oldest first.
        claims: the paper's numbers and claims beside ours; None where the paper says nothing about these data.
        facts: per-example column to what it is.
        origins: per-example column to the key of its evaluation.
        chosen: names of the columns that LaTeX and Markdown show; empty: the main ones.
        shown: which command planned which row, and what of earlier commands is not shown; None: one command's plan.
    """

    plan: PlanRecord
    rows: tuple[Row, ...]
    columns: tuple[BoardColumn, ...]
    examples: pd.DataFrame
    ranking: str
    resolvable: float | None
    logs: dict[tuple[str, int], Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    train_examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    pairs: tuple[Pair, ...] = ()
    adversarial: dict[tuple[str, int], StoredImages] = field(default_factory=dict)
    contested: Contested | None = None
    challenges: tuple[AppliedChallenge, ...] = ()
    claims: Claims | None = None
    facts: Mapping[str, Column] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    chosen: tuple[str, ...] = ()
    shown: BoardPlan | None = None

    @property
    def rows_text(self) -> str:
        """How many rows there are, and how many of them are not the last command's: "9 rows, 8 of them from …"."""
        earlier = len({row.defense for row in self.rows} & set(self.shown.earlier)) if self.shown else 0
        rows = formatting.plural(len(self.rows), "row")
        if not earlier:
            return rows
        which = "from an earlier command" if len(self.rows) == 1 else f"{earlier} of them from earlier commands"
        return f"{rows}, {which}"

    @property
    def joining_notes(self) -> list[str]:
        """What a reader must know of rows of earlier commands: which are not shown and why, what differs."""
        if self.shown is None:
            return []
        reasons: dict[str, list[str]] = {}
        for aside in self.shown.aside:
            reasons.setdefault(aside.reason, []).append(aside.row)
        return [*self.shown.notes, *(f"Not shown: {', '.join(rows)}: {why}." for why, rows in reasons.items())]

    @property
    def threat(self) -> ThreatModel | None:
        """The threat model by which the board ranks."""
        return self.plan.suite.threat

    @property
    def ranking_column(self) -> BoardColumn | None:
        """The column that ranks; None without one."""
        return next((c for c in self.columns if c.name == self.ranking), None)

    @property
    def mixed_images(self) -> bool:
        """Whether the measured columns are not all on equally many images, so that no two may be set side by side."""
        return len({c.images for c in self.columns if c.evaluation}) > 1

    def images_note(self, column: BoardColumn | None) -> str:
        """Return what a column's heading must say of its images: "n = 64"; "" where all columns have the same.

        Args:
            column: of the board; None: there is no such column.
        """
        known = column is not None and column.evaluation and self.mixed_images
        return f"n\u00a0=\u00a0{column.images:,}" if column is not None and known else ""

    @property
    def notes(self) -> list[str]:
        """What a reader of the files must know that no column says: unequal images, rows in doubt, rows of others."""
        groups: dict[int, list[str]] = {}
        for column in self.columns:
            if column.evaluation:
                groups.setdefault(column.images, []).append(column.name)
        images = [f"{', '.join(names)}: measured on {n:,} images" for n, names in groups.items()]
        different = ["Columns on different images; compare within a column only.", *images] if self.mixed_images else []
        earlier = [f"{self.rows_text}."] if self.shown is not None and self.shown.earlier else []
        doubts = (f"{row.defense}: {row.doubt}" for row in self.rows if row.doubt)
        return [*earlier, *different, *doubts, *self.joining_notes]

    def first(self, role: Role) -> BoardColumn | None:
        """Return the first column of a role, measured on test images; None without one.

        Args:
            role: what the column is for.
        """
        return next(iter(with_role(self.columns, role)), None)

    def best_known(self) -> BoardColumn | None:
        """Return the column of what is known to be robust at the board's threat; None without one."""
        threat = self.threat
        found = (c for c in with_role(self.columns, "best_known") if threat is not None and threat.matches(c.facts))
        return next(found, None)

    def lowered_by_challenges(self, defense: str) -> int:
        """Return how many verdicts of a row at the board's threat challenges have lowered, over its models.

        Args:
            defense: of the row.
        """
        threat = self.threat
        return sum(
            len(one.lowered)
            for one in self.challenges
            if one.challenge.defense == defense
            and threat is not None
            and (one.challenge.norm, one.challenge.eps) == (threat.norm, threat.eps)
        )

    def examples_with(self, *roles: Role, among: Iterable[str] | None = None) -> list[str]:
        """Return the names of the per-example columns of some roles, in the order of the table.

        Args:
            roles: what the columns are for.
            among: names to choose from; None: those of `examples`.
        """
        names = self.examples.columns if among is None else among
        return [name for name in names if name in self.facts and self.facts[name].role in roles]

    def beside(self, column: BoardColumn | None, role: Role) -> str | None:
        """Return the per-example column of a role that the same evaluation gave at the same parameters.

        Args:
            column: of the board; None: there is no such column.
            role: e.g. "broken_by".
        """
        if column is None:
            return None
        for name, facts in self.facts.items():
            same = self.origins.get(name) == column.evaluation and facts.params == column.facts.params
            if facts.role == role and same:
                return name
        return None
