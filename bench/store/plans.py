"""The plans of a folder's commands, and which cells their evaluations are."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import replace

from bench.core.errors import BenchError, IntegrityError, StoreError
from bench.core.text import one_line
from bench.store import seals, serialise
from bench.store.board_plan import BoardPlan, join
from bench.store.database import Database
from bench.store.plan_digest import plan_digest
from bench.store.plan_record import PlanRecord, parse_plan
from bench.store.records import RESTORE, CellRecord, cell_record


class Plans:
    """The plans of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, plan: PlanRecord) -> int:
        """Store the plan of a command, which the board shows from now on; one that is there already is used again.

        Returns:
            Its number. None of its evaluations is bound to a cell.
        """
        # Unsorted: the suite's order of evaluations and columns is the board's.
        text = serialise.dump_json(plan.model_dump(mode="json"), sort=False)
        with self._database.transaction() as db:
            (used,) = db.execute("SELECT COALESCE(MAX(used), 0) + 1 FROM plans").fetchone()
            values = {"plan": text, "digest": plan_digest(text), "used": used}
            same = db.execute("SELECT id FROM plans WHERE digest=:digest", values).fetchone()
            if same is None:
                return seals.put(db, "plans", values)
            number = int(same["id"])
            db.execute("UPDATE plans SET plan=:plan, used=:used WHERE id=:id", values | {"id": number})
            seals.seal(db, "plans", "id=:id", {"id": number})
            db.execute("DELETE FROM bindings WHERE plan=:id", {"id": number})
            return number

    def bind_all(self, bindings: Iterable[tuple[int, int, str, str]]) -> None:
        """Record which cells evaluations of runs are, known once their weights are.

        Args:
            bindings: number of the plan, place of the run in it, key of the evaluation and id of the cell, of each.
        """
        with self._database.transaction() as db:
            for plan, place, evaluation, cell in bindings:
                values = {"plan": plan, "row": place, "evaluation": evaluation, "cell": cell}
                seals.put(db, "bindings", values, replace=True)

    def numbers(self) -> list[int]:
        """Return the numbers of all plans, the last used one first."""
        return [row["id"] for row in self._database.query("SELECT id FROM plans ORDER BY used DESC")]

    def latest(self) -> PlanRecord:
        """Return the last command's plan, with the cells of its evaluations filled in as far as known.

        Raises:
            StoreError: no command has been planned in this folder yet, or another version of bench planned it.
            IntegrityError: the plan is damaged.
        """
        numbers = self.numbers()
        if not numbers:
            raise StoreError(
                f"{self._database.path}: expected a planned run, found none. Run `python -m bench run` first."
            )
        return self.get(numbers[0])

    def board(self, number: int | None = None) -> BoardPlan:
        """Return what the board shows: the rows of a command, and those of earlier ones that stand beside them.

        Args:
            number: of the command's plan; None: the last command's.

        Returns:
            Its rows as one plan; an earlier plan that cannot be read adds no rows, and a note says so.

        Raises:
            StoreError: no command has been planned in this folder yet, or another version of bench planned it.
            IntegrityError: the plan is damaged.
        """
        last = self.latest() if number is None else self.get(number)
        number = self.numbers()[0] if number is None else number
        return self.joined(number, last)

    def joined(self, number: int, last: PlanRecord) -> BoardPlan:
        """Return the board of a plan, which need not be stored, with the rows of the stored ones.

        Args:
            number: of the plan; 0 where it is not stored.
            last: the plan.
        """
        plans, notes = [(number, last)], list[str]()
        for other in (n for n in self.numbers() if n != number and not last.only):
            try:
                plans.append((other, self.get(other)))
            except BenchError as error:
                notes.append(one_line(f"An earlier command's rows are not shown: {error}"))
        found = join(plans, functools.cache(self._cell))
        return replace(found, notes=(*found.notes, *dict.fromkeys(notes))) if notes else found

    def _cell(self, cell: str) -> CellRecord | None:
        rows = self._database.rows("cells", "id=:id", {"id": cell})
        return cell_record(rows[0], self._database.described("cells", rows[0])) if rows else None

    def get(self, number: int) -> PlanRecord:
        """Return a plan by its number, with the cells of its evaluations filled in as far as known.

        Raises:
            StoreError: another version of bench planned it.
            IntegrityError: the plan is damaged.
        """
        where = str(self._database.path)
        (row,) = self._database.rows("plans", "id=:id", {"id": number})
        plan = parse_plan(row["plan"], where)
        cells = {}
        for binding in self._database.rows("bindings", "plan=:plan", {"plan": number}):
            if not 0 <= (place := binding["row"]) < len(plan.rows):
                raise IntegrityError(
                    f"{where}: plan {number}: expected {len(plan.rows)} rows, got row {place}. {RESTORE}"
                )
            cells[place, binding["evaluation"]] = binding["cell"]
        return plan.bound(cells)
