"""The plans of a folder's commands, and which cells their evaluations are."""

from __future__ import annotations

from collections.abc import Iterable

from bench.core.errors import StoreError
from bench.store import serialise
from bench.store.database import Database
from bench.store.plan_record import PlanRecord, parse_plan
from bench.store.sqlite import insert


class Plans:
    """The plans of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, plan: PlanRecord) -> int:
        """Store the plan of a command and return its number; the board shows the last one."""
        # Unsorted: the suite's order of evaluations and columns is the board's.
        text = serialise.dump_json(plan.model_dump(mode="json"), sort=False)
        with self._database.transaction() as db:
            return int(insert(db, "plans", {"plan": text}).lastrowid or 0)

    def bind(self, plan: int, place: int, evaluation: str, cell: str) -> None:
        """Record which cell an evaluation of a run is, known once its weights are.

        Args:
            plan: number of the plan.
            place: place of the run in it.
            evaluation: key of the evaluation.
            cell: id of the cell.
        """
        self.bind_all([(plan, place, evaluation, cell)])

    def bind_all(self, bindings: Iterable[tuple[int, int, str, str]]) -> None:
        """Record many bindings at once; the four values of `bind` each."""
        with self._database.transaction() as db:
            for plan, place, evaluation, cell in bindings:
                values = {"plan": plan, "row": place, "evaluation": evaluation, "cell": cell}
                insert(db, "bindings", values, replace=True)

    def latest(self) -> PlanRecord:
        """Return the last command's plan, with the cells of its evaluations filled in as far as known.

        Raises:
            StoreError: no command has been planned in this folder yet, or another version of bench planned it.
            IntegrityError: the plan is damaged.
        """
        rows = self._database.query("SELECT id, plan FROM plans ORDER BY id DESC LIMIT 1")
        if not rows:
            raise StoreError(
                f"{self._database.path}: expected a planned run, found none. Run `python -m bench run` first."
            )
        sql = "SELECT row, evaluation, cell FROM bindings WHERE plan=:plan"
        bindings = self._database.query(sql, {"plan": rows[0]["id"]})
        cells = {(b["row"], b["evaluation"]): b["cell"] for b in bindings}
        return parse_plan(rows[0]["plan"], str(self._database.path)).bound(cells)
