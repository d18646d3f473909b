"""The jobs of a plan: in which order, and what each one waits for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bench.running.plan import Plan
from bench.running.planned import PlannedEvaluation, Run

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
        jobs: all of them, in the order in which they are computed.
        companions: runs of earlier commands, which are read and never computed.
    """

    def __init__(self, plan: Plan) -> None:
        late = {p.entry.key for p in plan.evaluations if p.reads_others}
        for planned in plan.evaluations:  # what reads a late evaluation is late too
            if any(i.evaluation in late for i in planned.inputs):
                late.add(planned.entry.key)
        self._jobs = {job.id: job for job in _in_order(plan, late)}
        self._rows: dict[int, list[Job]] = {}
        self._columns: dict[str, list[Job]] = {}
        for job in self._jobs.values():
            self._rows.setdefault(job.place, []).append(job)
            self._columns.setdefault(job.key, []).append(job)
        self.jobs = tuple(self._jobs.values())
        self.companions = plan.companions

    def training_of(self, job: Job) -> Job:
        """Return the training of a job's run."""
        return self._jobs[job.place, TRAINING]

    def row(self, place: int) -> Sequence[Job]:
        """Return the jobs of a run: its training, then its evaluations."""
        return self._rows[place]

    def column(self, key: str) -> Sequence[Job]:
        """Return the jobs of an evaluation, one per run that it suits."""
        return self._columns.get(key, ())

    def own_evaluations(self, job: Job) -> list[Job]:
        """Return the evaluations of a job's run that read no other runs."""
        return [j for j in self._rows[job.place] if j.evaluation and not j.evaluation.reads_others]

    def own_inputs(self, job: Job) -> list[Job]:
        """Return the jobs of the same run whose results a job reads: its training and what its evaluation needs."""
        if job.evaluation is None:
            return []
        needed = [self.own_input(job, i.evaluation) for i in job.evaluation.inputs if i.need.of == "own"]
        return [self.training_of(job), *needed]

    def columns_read(self, job: Job) -> list[str]:
        """Return the keys of the evaluations of other runs that a job reads."""
        return [i.evaluation for i in job.evaluation.inputs if i.need.of == "others"] if job.evaluation else []

    def inputs(self, job: Job) -> Iterator[Job]:
        """Yield the jobs whose results a job reads: of its own run, then of the others."""
        yield from self.own_inputs(job)
        for key in self.columns_read(job):
            yield from self.other_inputs(job, key)

    def own_input(self, job: Job, evaluation: str) -> Job:
        """Return the job of another evaluation of the same run."""
        return self._jobs[job.place, evaluation]

    def other_inputs(self, job: Job, evaluation: str) -> Iterator[Job]:
        """Yield the jobs of an evaluation of the runs of every other defense."""
        return (j for j in self.column(evaluation) if j.run.defense != job.run.defense)


def _in_order(plan: Plan, late: Iterable[str]) -> Iterator[Job]:
    for place, run in enumerate(plan.runs):
        yield Job(place, run)
        yield from (Job(place, run, p) for p in plan.evaluations if p.entry.key not in late and p.suits(run))
    for place, run in enumerate(plan.runs):
        yield from (Job(place, run, p) for p in plan.evaluations if p.entry.key in late and p.suits(run))
