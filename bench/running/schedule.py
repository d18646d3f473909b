"""The jobs of a plan: in which order, what each one waits for, and which cell it is as far as the store knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from bench.running.cells import Cell
from bench.running.plan import Plan
from bench.running.planned import PlannedEvaluation, Run
from bench.store.records import CellRecord
from bench.store.store import Store
from bench.store.weights import weights_path

TRAINING = "train"


@dataclass(frozen=True, eq=False)
class Job:
    """One cell to compute: the training of a run, or one evaluation of it.

    Attributes:
        place: the run's place in the plan.
        run: the run.
        evaluation: None: its training.
    """

    place: int
    run: Run
    evaluation: PlannedEvaluation | None = None

    @property
    def key(self) -> str:
        """The evaluation's key; "train" for a training."""
        return self.evaluation.entry.key if self.evaluation else TRAINING

    @property
    def id(self) -> tuple[int, str]:
        """What tells the job from the others of its plan."""
        return self.place, self.key

    @property
    def name(self) -> str:
        """The name in the store and in messages, e.g. "lcnn seed 0: curvature"."""
        return f"{self.run.label}: {self.key}" if self.evaluation else self.run.label

    @property
    def title(self) -> str:
        """The name in a list of jobs."""
        return self.name if self.evaluation else f"{'take over' if self.run.handed_over else 'train'} {self.run.label}"


class Schedule:
    """The jobs of a plan. Seeds outermost, run by run; what reads other runs comes last.

    Attributes:
        companions: runs of earlier commands, which are read and never computed.
    """

    def __init__(self, plan: Plan) -> None:
        late = {p.entry.key for p in plan.evaluations if p.reads_others}
        for planned in plan.evaluations:  # what reads a late evaluation is late too
            if any(i.evaluation in late for i in planned.inputs):
                late.add(planned.entry.key)
        self._jobs = {job.id: job for job in _in_order(plan, late)}
        self.companions = plan.companions

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs, in the order in which they are computed."""
        return tuple(self._jobs.values())

    def training_of(self, job: Job) -> Job:
        """Return the training of a job's run."""
        return self._jobs[job.place, TRAINING]

    def own_evaluations(self, job: Job) -> list[Job]:
        """Return the evaluations of a job's run that read no other runs."""
        mine = (j for j in self.jobs if j.place == job.place and j.evaluation)
        return [j for j in mine if j.evaluation and not j.evaluation.reads_others]

    def inputs(self, job: Job) -> list[Job]:
        """Return the jobs whose results a job reads: its training and what its evaluation needs."""
        if job.evaluation is None:
            return []
        needed = [self.own_input(job, i.evaluation) for i in job.evaluation.inputs if i.need.of == "own"]
        others = [
            o for i in job.evaluation.inputs if i.need.of == "others" for o in self.other_inputs(job, i.evaluation)
        ]
        return [self.training_of(job), *needed, *others]

    def own_input(self, job: Job, evaluation: str) -> Job:
        """Return the job of another evaluation of the same run."""
        return self._jobs[job.place, evaluation]

    def other_inputs(self, job: Job, evaluation: str) -> list[Job]:
        """Return the jobs of an evaluation of the runs of every other defense."""
        return [j for j in self.jobs if j.key == evaluation and j.run.defense != job.run.defense]


def _in_order(plan: Plan, late: Iterable[str]) -> Iterator[Job]:
    for place, run in enumerate(plan.runs):
        yield Job(place, run)
        yield from (Job(place, run, p) for p in plan.evaluations if p.entry.key not in late and p.suits(run))
    for place, run in enumerate(plan.runs):
        yield from (Job(place, run, p) for p in plan.evaluations if p.entry.key in late and p.suits(run))


class CellIndex:
    """Which cells the jobs of a plan are, as far as the store knows: an evaluation's depends on what it reads."""

    def __init__(self, schedule: Schedule, store: Store) -> None:
        self.schedule = schedule
        self._store = store

    def record(self, job: Job) -> CellRecord | None:
        """Return what is stored of a job's cell."""
        cell = self.cell(job)
        return self._store.cell(cell.id) if cell else None

    def is_done(self, job: Job) -> bool:
        """Tell whether a job's result is stored."""
        record = self.record(job)
        return record is not None and record.status == "done"

    def is_whole(self, job: Job) -> bool:
        """Tell whether a job's result is stored with what it left beside the store: a training's weights.

        Weights that were left out when the folder was packed are missed once an evaluation of theirs is to be computed.

        Returns:
            False for a job that is not done as well.
        """
        record = self.record(job)
        if record is None or record.status != "done":
            return False
        if job.evaluation or weights_path(self._store.out, str(record.info["weights"])).is_file():
            return True
        return record.left_out and all(map(self.is_done, self.schedule.own_evaluations(job)))

    def weights(self, job: Job) -> str | None:
        """Return the SHA-256 of the weights of a job's run, None if it is not trained."""
        record = self._store.cell(job.run.cell.id)
        return str(record.info["weights"]) if record and record.status == "done" else None

    def cell(self, job: Job) -> Cell | None:
        """Return the cell of a job; None where the run is not trained, or what it reads of its own run is not done.

        Of other runs those count that are done: a run that failed is left out.
        """
        if job.evaluation is None:
            return job.run.cell
        weights = self.weights(job)
        if weights is None:
            return None
        read: dict[str, JsonValue] = {}
        for needed in job.evaluation.inputs:
            found: JsonValue
            if needed.need.of == "own":
                source = self.cell(self.schedule.own_input(job, needed.evaluation))
                if source is None or not self._is_stored(source):
                    return None
                found = source.id
            else:
                found = dict(self.other_cells(job, needed.evaluation))
            read[f"{needed.need.of} {needed.need.role}"] = found
        return job.evaluation.cell(job.run, weights, read)

    def other_cells(self, job: Job, evaluation: str) -> dict[str, str]:
        """Return label of a run to the cell of one of its evaluations, for the runs of other defenses that are done.

        Runs of earlier commands count as well.
        """
        cells = {o.run.label: self.cell(o) for o in self.schedule.other_inputs(job, evaluation)}
        found = {label: cell.id for label, cell in cells.items() if cell and self._is_stored(cell)}
        beside = (c for c in self.schedule.companions if c.defense != job.run.defense and evaluation in c.evaluations)
        return {**{c.label: c.evaluations[evaluation] for c in beside}, **found}

    def _is_stored(self, cell: Cell) -> bool:
        record = self._store.cell(cell.id)
        return record is not None and record.status == "done"

    def left_out(self, job: Job) -> str:
        """Return what of a job's inputs was left out when the folder was packed; "" if nothing was."""
        record, weights = self._store.cell(job.run.cell.id), self.weights(job)
        if record and weights and record.left_out and not weights_path(self._store.out, weights).is_file():
            return "its weights"
        for needed in job.evaluation.inputs if job.evaluation else ():
            if needed.need.of == "others":
                for label, cell in self.other_cells(job, needed.evaluation).items():
                    if self._store.lacks_images(cell):
                        return f"the adversarial examples of {label}"
        return ""

    def bindings(self) -> dict[tuple[int, str], str]:
        """Return (place of the run, key of the evaluation) to the id of its cell, for all cells that are known."""
        cells = {job.id: self.cell(job) for job in self.schedule.jobs if job.evaluation}
        return {place: cell.id for place, cell in cells.items() if cell}
