"""Randomised rows have places among themselves, and hold none of the others'."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from bench.reports.board import build as building
from bench.reports.board.model import Board
from bench.reports.exports.leaderboard import leaderboard_frame
from bench.reports.exports.terminal import board_table
from bench.reports.html import page
from bench.store.store import Store

VOTING = ("lcnn", "gradreg")


@pytest.fixture
def mixed(tmp_path: Path, fabricate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Board:
    """Return a board on which two of the defenses are randomised, as their trainings say."""
    fabricate.make_store(tmp_path, fabricate.make_plan())
    load = building.load

    def marked(*given):
        run, entry = load(*given), given[2]
        if entry.base not in VOTING or run.trained is None:
            return run
        return replace(run, trained=replace(run.trained, info={**run.trained.info, "randomised": True}))

    monkeypatch.setattr(building, "load", marked)
    with Store.open(tmp_path) as store:
        return building.build(store)


def test_no_place_is_shared_between_the_two(mixed: Board) -> None:
    plain = [row for row in mixed.rows if not row.randomised and row.rank is not None]
    votes = [row for row in mixed.rows if row.randomised]
    assert len(votes) >= 2
    assert all(row.rank is None and row.rank_low is None and row.standing == "randomised" for row in votes)
    assert sorted(row.rank_randomised for row in votes if row.rank_randomised) == list(range(1, len(votes) + 1))
    assert max(row.rank_high or 0 for row in plain) <= len(plain)
    assert not {name for pair in mixed.pairs for name in (pair.a, pair.b)} & {row.defense for row in votes}
    order = [row.standing for row in mixed.rows]
    assert order == sorted(order, key=["ranked", "randomised", "bound", "invalid", "incomplete", "other"].index)


def test_every_export_keeps_them_apart(mixed: Board) -> None:
    frame = leaderboard_frame(mixed)
    votes = frame[frame["rank_randomised"].notna()]
    assert len(votes) == sum(row.randomised for row in mixed.rows)
    assert votes["rank"].isna().all()
    console = Console(file=io.StringIO(), width=200)
    console.print(board_table(mixed))
    text = console.file.getvalue()
    assert "votes 1" in text
    assert "judged by votes: place 1 of" in text
    assert "with places among themselves" in page.render(mixed)


def test_a_board_without_any_has_no_such_column(tmp_path: Path, fabricate: ModuleType) -> None:
    fabricate.make_store(tmp_path, fabricate.make_plan())
    with Store.open(tmp_path) as store:
        assert "rank_randomised" not in leaderboard_frame(building.build(store))
