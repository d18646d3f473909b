"""How far a result folder has come: what is finished, what is left, and whose weights are still needed. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.store.plan_record import PlanRecord, RunRecord
from bench.store.records import CellRecord
from bench.store.store import Store

TRAINING = "train"


@dataclass(frozen=True)
class RunProgress:
    """One model of the last plan.

    Attributes:
        defense: canonical defense spec.
        seed: training seed.
        weights: SHA-256 of its weights; None: it is not trained yet.
        seconds: what its training took; None: not trained yet.
        unfinished: "train" if it is not trained, and the keys of its unfinished evaluations.
        failed: "train" or key to cause.
        images: key of every evaluation to the images that are stored; the plan says of how many.
        last: the keys of the evaluations that read other models' results, and so come last.
    """

    defense: str
    seed: int
    weights: str | None
    seconds: float | None
    unfinished: tuple[str, ...]
    failed: dict[str, str]
    images: dict[str, int]
    last: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """How the model is named on the terminal, e.g. "lcnn seed 0"."""
        return f"{self.defense} seed {self.seed}"

    @property
    def complete(self) -> bool:
        """Whether it is trained and every evaluation of it is finished."""
        return not self.unfinished

    @property
    def needs_weights(self) -> bool:
        """Whether an evaluation of its own is left to do on weights that are there."""
        return self.weights is not None and bool(set(self.unfinished) - self.last)


@dataclass(frozen=True)
class RunStatus:
    """How far the last plan of a folder has come.

    Attributes:
        suite: the suite's name.
        data: the name of the data.
        rows: its models, in the plan's order.
        total: all cells of the plan: one training per model, and its evaluations.
        chunks: stored chunks of all cells: whatever is done adds to it, or finishes a cell.
    """

    suite: str
    data: str
    rows: tuple[RunProgress, ...]
    total: int
    chunks: int

    @property
    def done(self) -> int:
        """How many cells are finished."""
        return self.total - sum(len(row.unfinished) for row in self.rows)

    def complete_seeds(self) -> dict[str, tuple[int, int]]:
        """Return defense to the number of its seeds that are complete, and of those that are planned."""
        rows = {
            name: [r for r in self.rows if r.defense == name] for name in dict.fromkeys(r.defense for r in self.rows)
        }
        return {name: (sum(r.complete for r in of_one), len(of_one)) for name, of_one in rows.items()}


def run_status(out: str | Path) -> RunStatus:
    """Read how far the last plan of a result folder has come.

    Returns:
        What is done and what is left, by run.

    Raises:
        MachineError: there is no store.
        StoreError: nothing has been planned there, or the store is damaged.
    """
    with Store.open(out) as store:
        plan = store.plans.latest()
        rows = tuple(_row(store, plan, run) for run in plan.rows)
        chunks = sum(len(store.chunk_info(cell.id)) for cell in store.cells("evaluation"))
    total = sum(1 + len(plan.evaluations.keys() - run.unsuited) for run in plan.rows)
    return RunStatus(plan.suite.name, plan.data.name, rows, total, chunks)


def _row(store: Store, plan: PlanRecord, run: RunRecord) -> RunProgress:
    trained = store.cell(run.train_cell)
    records: dict[str, CellRecord | None] = {TRAINING: trained}
    wanted = [key for key in plan.evaluations if key not in run.unsuited]
    for key in wanted:
        cell = run.evaluations.get(key)
        records[key] = store.cell(cell) if cell else None
    done = trained is not None and trained.status == "done"
    return RunProgress(
        defense=run.defense,
        seed=run.seed,
        weights=trained.info["weights"] if trained and done else None,
        seconds=trained.seconds if trained and done else None,
        unfinished=tuple(k for k, r in records.items() if r is None or r.status != "done"),
        images={key: _stored_images(store, records[key]) for key in wanted},
        last=frozenset(key for key in wanted if plan.evaluations[key].reads_others),
        failed={k: r.error or "unknown" for k, r in records.items() if r and r.status == "failed"},
    )


def _stored_images(store: Store, record: CellRecord | None) -> int:
    return sum(int(info.get("images", 0)) for info in store.chunk_info(record.id).values()) if record else 0
