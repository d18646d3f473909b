"""Which rows a board shows: the last command's, and those of earlier ones that were measured alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bench.store.board_plan import BoardPlan, join
from bench.store.plan_record import PlanRecord, SplitRecord
from bench.store.records import CellRecord
from tests.bench.store.folders import plan_of

RUNTIME = {"device": "cpu", "torch": "2.15"}


class Folder:
    """Plans, the last one first, and their cells, without a database."""

    def __init__(self) -> None:
        self.plans: list[tuple[int, PlanRecord]] = []
        self.cells: dict[str, CellRecord] = {}

    def run(self, plan: PlanRecord, *, status: str = "done", code: str = "1", **spec: Any) -> None:
        """Add the plan of a newer command whose cells have ended."""
        rows = []
        for run in plan.rows:
            train = f"{run.train_cell}-{run.seed}-{code}"
            made = {"seed": run.seed, "sources": {"bench.training": "1", "their_defense.py": code}, "runtime": RUNTIME}
            self.cells.setdefault(train, self.record(train, "train", made | spec))
            cells = {key: f"{key}-{train}-{spec.get('eps', 1)}" for key in plan.evaluations}
            for key, cell in cells.items():
                made = {"evaluation": key, "sources": {"bench.attacks": "1", "their_attack.py": "1"}}
                self.cells.setdefault(cell, self.record(cell, "evaluation", made | {"runtime": RUNTIME} | spec, status))
            rows.append(run.model_copy(update={"train_cell": train, "evaluations": cells}))
        self.plans.insert(0, (len(self.plans) + 1, plan.model_copy(update={"rows": tuple(rows)})))

    def record(self, cell: str, kind: str, spec: dict[str, Any], status: str = "done") -> CellRecord:
        return CellRecord(cell, kind, status, 1.0, None, {}, spec)

    def board(self) -> BoardPlan:
        return join(self.plans, self.cells.get)


@pytest.fixture
def folder() -> Folder:
    return Folder()


def rows_of(board: BoardPlan) -> list[str]:
    return [run.label for run in board.plan.rows]


def changed(plan: PlanRecord, part: str, **values: Any) -> PlanRecord:
    """Return a plan with values of its suite, of its data or of every row changed."""
    if part == "rows":
        return plan.model_copy(update={"rows": tuple(run.model_copy(update=values) for run in plan.rows)})
    return plan.model_copy(update={part: getattr(plan, part).model_copy(update=values)})


def test_a_command_adds_its_row_and_takes_none_away(folder):
    folder.run(plan_of("a", "b", command="bench run"))
    folder.run(plan_of("new", command="bench run --defense new"))
    board = folder.board()
    assert rows_of(board) == ["new seed 0", "a seed 0", "b seed 0"]
    assert board.earlier == ("a", "b")
    assert board.aside == board.notes == ()
    assert board.plan.command == "bench run --defense new"
    assert board.commands == {("new", 0): "bench run --defense new", ("a", 0): "bench run", ("b", 0): "bench run"}
    assert board.numbers == (2, 1)


def test_the_last_version_of_a_row_counts_and_the_earlier_one_goes_without_a_word(folder):
    folder.run(plan_of("a", "b"), code="1")
    folder.run(plan_of("b"), code="2")
    board = folder.board()
    assert [run.train_cell for run in board.plan.rows] == ["train-b-0-2", "train-a-0-1"]
    assert board.aside == ()


def test_a_command_may_ask_for_its_own_rows_alone(folder):
    folder.run(plan_of("a"))
    folder.run(plan_of("b").model_copy(update={"only": True}))
    assert rows_of(folder.board()) == ["b seed 0"]
    folder.run(plan_of("c"))
    assert rows_of(folder.board()) == ["c seed 0", "b seed 0", "a seed 0"], "they are hidden from one board, not gone"


OTHER = SplitRecord(n=6, total=6, fingerprint="other")
ASIDE: list[tuple[str, Callable[[PlanRecord], PlanRecord], str]] = [
    ("suite", lambda p: changed(p, "suite", name="t"), "it is of suite t"),
    ("data", lambda p: changed(p, "data", name="e"), "it is on data e, not d"),
    ("images", lambda p: changed(p, "data", test=OTHER), "it is on 6 other test images"),
    (
        "limit",
        lambda p: changed(p, "data", test=SplitRecord(n=4, total=6, fingerprint="4")),
        "it is on 4, not 6, test images",
    ),
    ("training images", lambda p: changed(p, "data", train=OTHER), "it was trained on 6 other images"),
    ("holdout", lambda p: changed(p, "suite", holdout=9), "it was trained on 6 other images"),
    ("recipe", lambda p: changed(p, "suite", recipe={"lr": 0.2}), "it was trained with lr 0.2, not absent"),
    (
        "epochs",
        lambda p: p.model_copy(update={"overrides": {"epochs": 2}}),
        "it was trained with epochs 2, not absent",
    ),
    ("backbone", lambda p: changed(p, "suite", backbone="c"), "its suite's backbone is c, not b"),
    (
        "arguments",
        lambda p: p.model_copy(
            update={
                "evaluations": {k: e.model_copy(update={"arguments": {"eps": 1}}) for k, e in p.evaluations.items()}
            }
        ),
        "its accuracy has eps 1, not absent",
    ),
    (
        "version",
        lambda p: p.model_copy(
            update={"evaluations": {k: e.model_copy(update={"version": 2}) for k, e in p.evaluations.items()}}
        ),
        "its accuracy has version 2, not 1",
    ),
]


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in ASIDE], ids=[case[0] for case in ASIDE])
def test_a_row_that_was_made_otherwise_stands_aside_and_says_why(folder, change, reason):
    folder.run(change(plan_of("a")), eps=2)
    folder.run(plan_of("b"))
    board = folder.board()
    assert rows_of(board) == ["b seed 0"]
    assert [(one.row, one.reason) for one in board.aside] == [("a", reason)]
    folder.run(plan_of("a"))
    assert folder.board().aside == (), "what was run again is not missed"


def test_third_parties_code_that_was_edited_sets_aside_and_ours_is_noted(folder):
    folder.run(plan_of("a"), sources={"their_attack.py": "0"})
    folder.run(
        plan_of("c"), sources={"bench.attacks": "0", "bench.training": "1"}, runtime={**RUNTIME, "torch": "2.14"}
    )
    folder.run(plan_of("b"))
    board = folder.board()
    assert rows_of(board) == ["b seed 0", "c seed 0"]
    assert board.aside[0].reason == "its accuracy was computed by other code, their_attack.py having changed"
    assert board.notes == (
        "c: computed with an earlier state of bench's code (bench.attacks); torch 2.14, not 2.15. Versions agree.",
    )


def test_seeds_of_one_row_are_of_one_version(folder):
    more = changed(plan_of("a"), "rows", seed=1)
    folder.run(plan_of("a"), code="1")
    folder.run(more, code="1")
    assert rows_of(folder.board()) == ["a seed 1", "a seed 0"]
    assert folder.board().earlier == ()
    folder.run(more, code="2")
    (aside,) = folder.board().aside
    assert (aside.row, aside.reason) == (
        "a seed 0",
        "its training was computed by other code, their_defense.py having changed",
    )
    folder.run(changed(more, "rows", hyperparameters={"beta": 2}), code="2")
    assert folder.board().aside[0].reason == "its beta is absent, that of the row's other seeds 2"


def test_what_the_last_command_left_out_of_its_rows_is_kept(folder):
    whole = plan_of("a")
    narrow = whole.model_copy(update={"evaluations": {"accuracy": whole.evaluations["accuracy"]}})
    folder.run(whole)
    folder.run(narrow)
    board = folder.board()
    assert list(board.plan.evaluations) == ["accuracy", "attack"]
    assert set(board.plan.rows[0].evaluations) == {"accuracy", "attack"}
    folder.run(narrow, code="2")
    assert set(folder.board().plan.rows[0].evaluations) == {"accuracy"}, "the weights are others"


def test_a_row_of_which_nothing_is_finished_stands_aside(folder):
    folder.run(plan_of("a"), status="running")
    folder.run(plan_of("b"))
    assert folder.board().aside[0].reason == "none of its evaluations is finished"


def test_models_that_were_handed_over_join_whatever_the_recipe(folder):
    handed = changed(changed(plan_of("theirs"), "rows", provenance="handed over"), "suite", recipe={"epochs": 9})
    handed = changed(handed, "data", train=SplitRecord(n=0, total=6, fingerprint=""))
    folder.run(plan_of("a"))
    folder.run(handed)
    board = folder.board()
    assert rows_of(board) == ["theirs seed 0", "a seed 0"]
    assert board.plan.data.train.n == 6, "the images of the rows that were trained"
    assert board.plan.suite.recipe == {}
    folder.run(plan_of("b"))
    assert rows_of(folder.board()) == ["b seed 0", "theirs seed 0", "a seed 0"]


def test_some_rows_alone(folder):
    folder.run(plan_of("a", "b"))
    folder.run(plan_of("c"))
    assert rows_of(folder.board().narrow(["a", "c"])) == ["c seed 0", "a seed 0"]


def test_what_was_measured_on_weights_that_were_trained_anew_is_left_out(folder):
    whole = plan_of("a")
    folder.run(whole, model={"weights": "old"})
    folder.run(whole.model_copy(update={"evaluations": {"accuracy": whole.evaluations["accuracy"]}}), status="running")
    trained = folder.plans[0][1].rows[0].train_cell
    folder.cells[trained] = replace(folder.cells[trained], info={"weights": "old"})
    assert set(folder.board().plan.rows[0].evaluations) == {"accuracy", "attack"}
    folder.cells[trained] = replace(folder.cells[trained], info={"weights": "new"})
    assert set(folder.board().plan.rows[0].evaluations) == {"accuracy"}
