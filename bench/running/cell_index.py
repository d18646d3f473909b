"""Which cells the jobs of a plan are, as far as the store knows: an evaluation's depends on what it reads."""

from __future__ import annotations

from collections import Counter

from pydantic import JsonValue

from bench.running.cells import Cell
from bench.running.known_cells import KnownCells
from bench.running.schedule import Job, Schedule
from bench.store.records import CellStatus
from bench.store.store import Store
from bench.store.weights import weights_path


class CellIndex:
    """The cells of a plan's jobs, each looked up once: planning takes time that is linear in their number.

    Args:
        schedule: the jobs.
        store: of the result folder.
        still: whether the store is taken to stay as it is, so that what is not finished is looked up once as well.
    """

    def __init__(self, schedule: Schedule, store: Store, *, still: bool = False) -> None:
        self.schedule = schedule
        self._store, self._known, self._still = store, KnownCells(store, still), still
        self._ids: dict[tuple[int, str], str] = {}
        self._cells: dict[tuple[int, str], Cell] = {}  # of one run
        self._finished: dict[str, dict[int, str]] = {}  # evaluation to place of a run to its cell
        self._left: dict[str, Counter[str]] = {}  # the same, how many of each defense
        self._open: dict[str, list[Job]] = {}  # evaluation to its jobs that were not finished when last looked at

    def state(self, job: Job) -> CellStatus | None:
        """Return how far a job's cell is; None if it is not known, or was never claimed."""
        cell = self.cell_id(job)
        return self._known.state(cell) if cell else None

    def is_done(self, job: Job) -> bool:
        """Tell whether a job's result is stored."""
        state = self.state(job)
        return state is not None and state.status == "done"

    def is_whole(self, job: Job) -> bool:
        """Tell whether a job's result is stored with what it left beside the store: a training's weights.

        Weights that were left out when the folder was packed are missed once an evaluation of theirs is to be computed.

        Returns:
            False for a job that is not done as well.
        """
        state = self.state(job)
        if state is None or state.status != "done":
            return False
        if job.evaluation or weights_path(self._store.out, state.weights).is_file():
            return True
        return state.left_out and all(map(self.is_done, self.schedule.own_evaluations(job)))

    def trained(self, job: Job) -> CellStatus | None:
        """Return what the training of a job's run has left, None if it is not trained."""
        state = self._known.state(job.run.cell.id)
        return state if state and state.status == "done" else None

    def weights(self, job: Job) -> str | None:
        """Return the SHA-256 of the weights of a job's run, None if it is not trained."""
        state = self.trained(job)
        return state.weights if state else None

    def reopened(self, job: Job) -> None:
        """Forget what is known of the cells of a job's run: its training is computed again."""
        self._known.forget(job.run.cell.id)
        self._cells.clear()
        for mine in self.schedule.row(job.place):
            self._ids.pop(mine.id, None)
            if self._finished.get(mine.key, {}).pop(job.place, None):
                self._open[mine.key].append(mine)

    def cell_id(self, job: Job) -> str | None:
        """Return the id of a job's cell, None where `cell` has none."""
        if job.evaluation is None:
            return job.run.cell.id
        known = self._ids.get(job.id)
        if known is None and (cell := self.cell(job)) is not None:
            known = cell.id
            if self._still or not job.evaluation.reads_others:
                self._ids[job.id] = known
                self._remember(job, cell)
        return known

    def _remember(self, job: Job, cell: Cell) -> None:
        """Keep the cells of one run, which are asked for one after the other: their keys are not hashed again."""
        if any(place != job.place for place, _ in self._cells):
            self._cells.clear()
        self._cells[job.id] = cell

    def cell(self, job: Job) -> Cell | None:
        """Return the cell of a job; None where the run is not trained, or what it reads of its own run is not done.

        Of other runs those count that are done: a run that failed is left out.
        """
        if job.evaluation is None:
            return job.run.cell
        if job.id in self._cells:
            return self._cells[job.id]
        weights = self.weights(job)
        if weights is None:
            return None
        read: dict[str, JsonValue] = {}
        for needed in job.evaluation.inputs:
            found: JsonValue
            if needed.need.of == "own":
                source = self.schedule.own_input(job, needed.evaluation)
                found = self.cell_id(source)
                if not self.is_done(source):
                    return None
            else:
                found = dict(self.other_cells(job, needed.evaluation))
            read[f"{needed.need.of} {needed.need.role}"] = found
        return job.evaluation.cell(job.run, weights, read)

    def other_cells(self, job: Job, evaluation: str) -> dict[str, str]:
        """Return label of a run to the cell of one of its evaluations, for the runs of other defenses that are done.

        Runs of earlier commands count as well.

        Args:
            job: whose run's defense is left out.
            evaluation: key of the evaluation.
        """
        beside = (c for c in self.schedule.companions if c.defense != job.run.defense and evaluation in c.evaluations)
        found, finished = {c.label: c.evaluations[evaluation] for c in beside}, self._finished_of(evaluation)
        others = (o for o in self.schedule.other_inputs(job, evaluation) if o.place in finished)
        return found | {o.run.label: finished[o.place] for o in others}

    def _finished_of(self, evaluation: str) -> dict[int, str]:
        """Return place of a run to its finished cell of an evaluation."""
        finished = self._finished.setdefault(evaluation, {})
        left = self._open.setdefault(evaluation, list(self.schedule.column(evaluation)))
        if left and not (self._still and evaluation in self._left):
            now = {job.place: self._ids[job.id] for job in left if self.is_done(job)}
            finished |= now
            self._open[evaluation] = [job for job in left if job.place not in now]
            self._left[evaluation] = Counter(job.run.defense for job in self._open[evaluation])
        return finished

    def others_left(self, job: Job, evaluation: str) -> int:
        """Return how many runs of other defenses have not finished an evaluation."""
        self._finished_of(evaluation)
        left = self._left.get(evaluation, Counter())
        return left.total() - left[job.run.defense]

    def left_out(self, job: Job) -> str:
        """Return what of a job's inputs was left out when the folder was packed; "" if nothing was."""
        state, weights = self._known.state(job.run.cell.id), self.weights(job)
        if state and weights and state.left_out and not weights_path(self._store.out, weights).is_file():
            return "its weights"
        for key in self.schedule.columns_read(job):
            for label, cell in self.other_cells(job, key).items():
                if self._known.lacks_images(cell):
                    return f"the adversarial examples of {label}"
        return ""

    def bindings(self) -> dict[tuple[int, str], str]:
        """Return (place of the run, key of the evaluation) to the id of its cell, for all cells that are known."""
        cells = {job.id: self.cell_id(job) for job in self.schedule.jobs if job.evaluation}
        return {place: cell for place, cell in cells.items() if cell}
