"""What the board of a folder shows: the last command's rows, and those of earlier commands that stand beside them.

A command adds rows; it takes none away. An earlier row joins if suite, test images and threat are the same, it was
trained alike, and what both have measured was measured alike. One that does not join is named with the reason. The
last command's version of a run counts; what it did not measure of it is taken from earlier commands, if the weights
are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.core.handed_over import PROVENANCE
from bench.store import comparable
from bench.store.plan_record import EvaluationRecord, IncludedFile, PlanRecord, RunRecord
from bench.store.records import CellRecord
from bench.store.spec_difference import listing

Cells = Callable[[str], CellRecord | None]  # id of a cell to its record
Place = tuple[str, int]  # defense spec and seed
_NARROWING = ("defenses", "seeds", "evaluations")  # overrides that say less of a board with further rows


@dataclass(frozen=True)
class Aside:
    """A row of an earlier command that is not on the board.

    Attributes:
        row: the defense, with its seed where other seeds of it are on the board.
        reason: why.
    """

    row: str
    reason: str


@dataclass(frozen=True)
class BoardPlan:
    """The rows of a board, as one plan.

    Attributes:
        plan: the last command's plan, with the rows and evaluations of earlier ones.
        own: defense and seed of the runs that the last command planned.
        commands: defense and seed of every run to the command that planned it, as typed.
        aside: rows of earlier commands that are not on the board, each with the reason.
        notes: what a reader must know of rows that are.
        numbers: of the plans that it was made of, the last command's first.
        narrowed: the rows that a report was asked for; empty: all.
        only: whether it was asked for the last command's rows alone.
    """

    plan: PlanRecord
    own: frozenset[Place]
    commands: Mapping[Place, str]
    aside: tuple[Aside, ...] = ()
    notes: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    narrowed: tuple[str, ...] = ()
    only: bool = False

    @property
    def earlier(self) -> tuple[str, ...]:
        """The defenses of which no run is the last command's."""
        mine = {defense for defense, _ in self.own}
        return tuple(dict.fromkeys(run.defense for run in self.plan.rows if run.defense not in mine))

    def narrow(self, defenses: Sequence[str]) -> BoardPlan:
        """Return the same with some of the rows alone.

        Args:
            defenses: their specs, as the plan has them.
        """
        rows = tuple(run for run in self.plan.rows if run.defense in defenses)
        own = frozenset(place for place in self.own if place[0] in defenses)
        plan = self.plan.model_copy(update={"rows": rows})
        return replace(self, plan=plan, own=own, aside=(), narrowed=tuple(dict.fromkeys(defenses)))


def alone(plan: PlanRecord, number: int) -> BoardPlan:
    """Return a board of one command's rows.

    Args:
        plan: the command's.
        number: of the plan in its store.
    """
    own = frozenset((run.defense, run.seed) for run in plan.rows)
    return BoardPlan(plan, own, dict.fromkeys(own, plan.command), numbers=(number,), only=True)


def join(plans: Sequence[tuple[int, PlanRecord]], cells: Cells) -> BoardPlan:
    """Return the board of the first plan with the rows of the others that stand beside its own.

    Args:
        plans: number and plan, the last command's first, then the newest.
        cells: gives the records of the store's cells.
    """
    number, last = plans[0]
    joined = _Joined(last, number, cells)
    if not last.only:
        for place, plan in plans[1:]:
            joined.add(place, plan)
    return joined.board()


class _Joined:
    """A board to which plans are added, the newest first."""

    def __init__(self, last: PlanRecord, number: int, cells: Cells) -> None:
        self._last, self._cells = last, cells
        self._trained = last if any(map(comparable.is_trained, last.rows)) else None
        self._runs = {(run.defense, run.seed): run for run in last.rows}
        self._own = frozenset(self._runs)
        self._commands = dict.fromkeys(self._runs, last.command)
        self._evaluations = dict(last.evaluations)
        self._plans = [last]
        self._numbers = [number]
        self._aside: dict[str, str] = {}
        self._older: dict[str, list[str]] = {}  # what a note says to the rows that it is true of
        self._samples: dict[str, CellRecord] = {}  # evaluation, or "training", to a cell of the board
        for run in last.rows:
            self._sample(run)

    def add(self, number: int, plan: PlanRecord) -> None:
        """Add what stands beside the rows so far; the others are set aside, unless a newer version is on the board."""
        whole, found = comparable.plan_difference(self._last, plan), False
        for run in plan.rows:
            place = run.defense, run.seed
            mine = self._runs.get(place)
            if mine is not None:
                found |= not whole and mine.train_cell == run.train_cell and self._fill(place, mine, run, plan)
                continue
            reason = whole or self._reason(run, plan)
            if reason:
                known = any(defense == run.defense for defense, _ in self._runs)
                self._aside.setdefault(run.label if known else run.defense, reason)
                continue
            self._runs[place], self._commands[place], found = run, plan.command, True
            self._aside.pop(run.defense, None)
            self._trained = self._trained or (plan if comparable.is_trained(run) else None)
            self._note(run)
            self._sample(run)
            self._more(run, plan)
        if found:
            self._plans.append(plan)
            self._numbers.append(number)

    def _reason(self, run: RunRecord, plan: PlanRecord) -> str:
        """Return why a run does not stand on the board, "" if it does."""
        done = self._done(run)
        if not done:
            trained = self._cells(run.train_cell)
            failed = trained is not None and trained.status == "failed"
            if failed and run.provenance == PROVENANCE:
                return "its weights could not be taken over"
            return "its training failed" if failed else "none of its evaluations is finished"
        if reason := self._trained_otherwise(run, plan):
            return reason
        for key in done:
            if reason := self._evaluated_otherwise(key, plan.evaluations[key], done[key]):
                return reason
        twin = next((mine for (defense, _), mine in self._runs.items() if defense == run.defense), None)
        return self._other_version(twin, run) if twin is not None else ""

    def _trained_otherwise(self, run: RunRecord, plan: PlanRecord) -> str:
        if self._trained is None or not comparable.is_trained(run):
            return ""
        return comparable.training_difference(self._trained, plan)

    def _other_version(self, twin: RunRecord, run: RunRecord) -> str:
        if reason := comparable.defense_difference(twin, run):
            return reason
        a, b = self._cells(twin.train_cell), self._cells(run.train_cell)
        return comparable.other_code("training", comparable.changed_sources(a, b)[1]) if a and b else ""

    def _evaluated_otherwise(self, key: str, theirs: EvaluationRecord, cell: CellRecord) -> str:
        mine, sample = self._evaluations.get(key), self._samples.get(key)
        if mine is not None and (reason := comparable.evaluation_difference(key, mine, theirs)):
            return reason
        return comparable.other_code(key, comparable.changed_sources(sample, cell)[1]) if sample else ""

    def _fill(self, place: Place, mine: RunRecord, run: RunRecord, plan: PlanRecord) -> bool:
        """Take over what the last command did not measure of one of its runs; tell whether there was any."""
        more = {
            key: cell.id
            for key, cell in self._done(run).items()
            if key not in mine.evaluations and not self._evaluated_otherwise(key, plan.evaluations[key], cell)
        }
        if more:
            self._runs[place] = mine.model_copy(update={"evaluations": {**mine.evaluations, **more}})
            self._sample(self._runs[place])
            self._more(self._runs[place], plan)
        return bool(more)

    def _more(self, run: RunRecord, plan: PlanRecord) -> None:
        """Add the evaluations of a plan that a run has and the board has not."""
        for key in run.evaluations:
            if key in plan.evaluations:
                self._evaluations.setdefault(key, plan.evaluations[key])

    def _done(self, run: RunRecord) -> dict[str, CellRecord]:
        """Return the finished evaluations of a run by key, without those of weights that were trained anew since."""
        trained = self._cells(run.train_cell)
        weights = trained.info.get("weights") if trained is not None else None
        records = {key: self._cells(cell) for key, cell in run.evaluations.items()}
        done = {key: record for key, record in records.items() if record is not None and record.status == "done"}
        return {key: record for key, record in done.items() if comparable.measured_on(record) in (None, weights)}

    def _measured(self, run: RunRecord) -> dict[str, CellRecord]:
        """Return the finished cells of a run, its training's among them where it was trained."""
        trained = self._cells(run.train_cell) if comparable.is_trained(run) else None
        return self._done(run) | ({"training": trained} if trained is not None and trained.status == "done" else {})

    def _sample(self, run: RunRecord) -> None:
        self._samples = self._measured(run) | self._samples

    def _note(self, run: RunRecord) -> None:
        """Remember what of a run was computed otherwise than of the rows so far, without a reason to set it aside."""
        files: set[str] = set()
        runtime: dict[str, None] = {}
        for key, cell in self._measured(run).items():
            if (sample := self._samples.get(key)) is not None:
                files |= comparable.changed_sources(sample, cell)[0]
                runtime |= dict.fromkeys(comparable.changed_runtime(sample, cell))
        said = [f"an earlier state of bench's code ({listing(files)})"] if files else []
        said += [", ".join(runtime)] if runtime else []
        if said:
            rows = self._older.setdefault(f"computed with {'; '.join(said)}. Versions agree", [])
            rows.extend([run.defense] if run.defense not in rows else [])

    def board(self) -> BoardPlan:
        """Return the board as it is now."""
        plan = self._merged() if len(self._plans) > 1 else self._last
        aside = tuple(Aside(row, reason) for row, reason in self._aside.items() if self._is_missing(row))
        notes = tuple(f"{', '.join(rows)}: {what}." for what, rows in self._older.items())
        return BoardPlan(plan, self._own, self._commands, aside, notes, tuple(self._numbers))

    def _is_missing(self, row: str) -> bool:
        return all(row not in (run.defense, run.label) for run in self._runs.values())

    def _merged(self) -> PlanRecord:
        """Return the last plan with what was added: rows, evaluations, and how the trained rows were trained."""
        last, trained = self._last, self._trained or self._last
        order = [key for plan in sorted(self._plans, key=lambda p: -len(p.evaluations)) for key in plan.evaluations]
        evaluations = {key: self._evaluations[key] for key in dict.fromkeys(order) if key in self._evaluations}
        configured = {key: entry for plan in self._plans[::-1] for key, entry in plan.suite.evaluations.items()}
        suite = last.suite.model_copy(
            update={
                "recipe": trained.suite.recipe,
                "backbone": trained.suite.backbone,
                "holdout": trained.suite.holdout,
                "evaluations": {key: configured[key] for key in evaluations if key in configured},
            }
        )
        overrides = {k: v for k, v in {**trained.overrides, **last.overrides}.items() if k not in _NARROWING}
        included: dict[IncludedFile, None] = {one: None for plan in self._plans for one in plan.environment.included}
        return last.model_copy(
            update={
                "suite": suite,
                "overrides": overrides,
                "data": last.data.model_copy(update={"train": trained.data.train}),
                "environment": last.environment.model_copy(update={"included": tuple(included)}),
                "evaluations": evaluations,
                "rows": tuple(self._runs.values()),
            }
        )
