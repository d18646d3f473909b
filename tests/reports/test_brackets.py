"""What is proved beside what is broken: the bracket of each row, and the places that no attack can change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bench.core.records import Column
from bench.reports.board import build as building
from bench.reports.board.model import Board
from bench.reports.board.parts import Bracket
from bench.reports.exports.leaderboard import leaderboard_frame
from bench.reports.html import page
from bench.store.store import Store

RADIUS = Column("Certified radius.", role="certified", params={"norm": "l2"})
Proving = Callable[..., Board]


@pytest.fixture
def board(tmp_path: Path, fabricate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Proving:
    """Return how to make a board on which `gradreg` has a certified radius, `wrong`: also where it is broken."""
    fabricate.make_store(tmp_path, fabricate.make_plan())
    load = building.load

    def made(radius: float, *, wrong: bool = False) -> Board:
        def certified(*given):
            run, entry = load(*given), given[2]
            table = run.tables["autoattack_l2"]
            if entry.base != "gradreg":
                return run
            robust = np.asarray(table.columns["autoattack_l2_0.5_robust"], dtype=float)
            radii = np.full(len(robust), radius) * (1 if wrong else robust)
            columns = {**table.columns, "certified_radius": radii}
            facts = {**table.facts, "certified_radius": RADIUS}
            return replace(run, tables={**run.tables, "autoattack_l2": replace(table, columns=columns, facts=facts)})

        monkeypatch.setattr(building, "load", certified)
        with Store.open(tmp_path) as store:
            return building.build(store)

    return made


def test_a_vacuous_certificate_leaves_the_board_as_it_is(board: Proving) -> None:
    made = board(0.01)
    names = [column.name for column in made.columns]
    assert "certified_l2_0.5" not in names
    assert not any(name.startswith(("certified", "bracket", "proved_rank")) for name in names)
    assert not any(row.brackets for row in made.rows)


def test_what_is_proved_stands_beside_what_is_broken_and_has_ranks_of_its_own(board: Proving) -> None:
    made = board(0.6)  # all that is not broken is proved
    rows = {row.defense: row for row in made.rows}
    best, others = rows["gradreg"], [row for row in made.rows if row.defense != "gradreg"]
    bracket = best.bracket(0.5)
    assert bracket is not None
    assert bracket.proved == bracket.unbroken > 0
    assert all(found is not None and found.proved == 0 for found in (row.bracket(0.5) for row in others))
    frame = leaderboard_frame(made).set_index("defense")
    assert frame.loc["gradreg", "certified_l2_0.5"] == bracket.proved
    assert str(frame.loc["gradreg", "bracket_l2_0.5"]).startswith("proved ≥ ")
    assert frame.loc["gradreg", "proved_rank_low_l2_0.5"] == 1
    # Without certificates a row is better than none, whatever its attacks say.
    worst = frame.loc[[row.defense for row in others if row.rank is not None], "proved_rank_high_l2_0.5"]
    assert (worst == len(made.rows)).all()
    assert list(frame["rank"].dropna()) == sorted(frame["rank"].dropna())  # the rank by attack is as it was


def test_a_radius_of_exactly_eps_proves_nothing_and_a_broken_image_is_never_proved(board: Proving) -> None:
    assert all(row.bracket(0.5) is None for row in board(0.5).rows)
    made = board(9.0, wrong=True)
    found = next(row.bracket(0.5) for row in made.rows if row.defense == "gradreg")
    assert found is not None
    assert found.proved == found.unbroken < 1  # C1, not the bracket, says that such a certificate is wrong


def test_each_budget_has_its_own_bracket_on_its_own_images(board: Proving, fabricate: ModuleType) -> None:
    """A radius of 0.3 proves nothing at the board's 0.5, and much at the smaller budgets that PGD was run at."""
    made = board(0.3)
    best = next(row for row in made.rows if row.defense == "gradreg")
    assert sorted(bracket.eps for bracket in best.brackets) == [eps for eps in fabricate.EPS if eps < 0.3]
    frame, columns = leaderboard_frame(made).set_index("defense"), {c.name: c for c in made.columns}
    examples = made.examples.query("defense == 'gradreg'")
    for bracket in best.brackets:
        name = f"l2_{bracket.eps:g}"
        assert bracket.n == columns[f"certified_{name}"].images == columns[f"pgd_{name}"].images
        assert frame.loc["gradreg", f"certified_{name}"] == bracket.proved <= bracket.unbroken
        assert frame.loc["gradreg", f"best_known_{name}"] == pytest.approx(bracket.unbroken)
        assert frame.loc["gradreg", f"best_known_{name}"] <= frame.loc["gradreg", f"pgd_{name}"]
        # Broken by AutoAttack with a change that is small enough is broken here too, whatever PGD said.
        near = examples["autoattack_l2_0.5_distance"] <= bracket.eps
        assert not (examples[f"best_known_{name}_robust"] & near).any()
    assert (examples["autoattack_l2_0.5_distance"] <= 0.1).any()
    assert page.render(made).count("Proved and broken, ℓ₂ within") == len(best.brackets)


def test_the_sentence() -> None:
    assert str(Bracket(0.382, 0.46, 500, 0.5)) == "proved ≥ 38.2, broken ≤ 46.0, unknown 7.8"


def test_the_page_and_the_files_show_it(board: Proving) -> None:
    made = board(0.6)
    assert "proved ≥ 47.1, broken ≤ 47.1, unknown 0.0" in page.render(made)
