"""Columns are chosen by what they are: evaluations under any name, and any threat, rank, plot and export."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.core.records import Column, expand_columns
from bench.reports import write
from bench.reports.board.model import Board
from bench.reports.exports import leaderboard
from bench.reports.figures import index, plot_data
from bench.reports.formatting import show
from bench.reports.html import page, ranking_table
from bench.store.store import Store

KEY = "my_robustness"
ARGUMENTS = {"strength": [1.0, 2.0, 3.0]}


def columns(**facts: Any) -> dict[str, Column]:
    """Return the columns of a third-party evaluation, whose names tell nothing."""
    return {
        "zeta_{strength}_ok": Column(
            "Right at this strength.",
            kind="flag",
            board="zeta_{strength}_share",
            aggregate="fraction",
            direction="higher",
            formula="argmax f(T(x)) = y",
            source="Somebody 2026",
            interval="wilson",
            heading="My robustness",
            **facts,
        ),
        "zeta_{strength}_size": Column("How much it moved.", board="zeta_{strength}_size", interval="bootstrap"),
    }


def third_party(
    fabricate: ModuleType, out: Path, threat: dict[str, Any] | None, **facts: Any
) -> tuple[Board, dict[str, pd.DataFrame]]:
    """Return the board of a folder in which a third-party evaluation was run, and its tables by defense."""
    declared = columns(**facts)
    plan = fabricate.make_plan(seeds=(0,), evaluations=("accuracy",))
    plan["suite"]["threat"] = threat
    plan["evaluations"][KEY] = {
        **plan["evaluations"]["accuracy"],
        "evaluation": KEY,
        "arguments": ARGUMENTS,
        "columns": {pattern: asdict(column) for pattern, column in declared.items()},
    }
    tables = {}
    with Store.open(out, create=True) as store:
        number = store.plans.put(fabricate.record(plan))
        for place, row in enumerate(plan["rows"]):
            name = row["defense"]
            rng = np.random.default_rng(place)
            table = pd.DataFrame({"index": np.arange(100), "label": np.arange(100) % 10})
            for strength in ARGUMENTS["strength"]:
                table[f"zeta_{strength:g}_ok"] = rng.random(100) < (0.5 + 0.1 * place) / strength
                table[f"zeta_{strength:g}_size"] = rng.random(100)
            tables[name] = table
            for key, values in (("accuracy", fabricate.table_of("accuracy", name, 0, 100, 0.3)), (KEY, table)):
                known = fabricate.facts_of(values) | expand_columns(declared, ARGUMENTS, values.columns)
                lease = store.leases.claim(fabricate.name_of(key, name), "evaluation", {})
                assert lease is not None
                store.put_chunk(lease, 0, values, None, {}, known)
                store.finish(lease, {"images": 100})
                store.plans.bind_all([(number, place, key, fabricate.name_of(key, name))])
    return write(out), tables


def test_a_third_party_evaluation_has_interval_tooltip_figure_and_export(tmp_path: Path, fabricate: ModuleType) -> None:
    board, tables = third_party(fabricate, tmp_path, None)
    by_name = {column.name: column for column in board.columns}
    column = by_name["zeta_2_share"]
    assert (column.level, column.level_name, column.heading) == (2.0, "strength", "My robustness")
    row = board.rows[0]
    cell = row.cells["zeta_2_share"]
    assert cell.value == tables[row.defense]["zeta_2_ok"].mean()
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < cell.value < cell.high
    size = row.cells["zeta_2_size"]
    assert size.low is not None
    assert size.low < tables[row.defense]["zeta_2_size"].mean() < (size.high or 0)
    (shown,) = [c for c in ranking_table.table_columns(board) if c.name == "zeta_2_share"]
    assert shown.detail == "strength\u00a02, %"
    assert shown.tip == (
        "Right at this strength. Unit: % on this page, a fraction in the files. Higher is better. "
        "Formula: argmax f(T(x)) = y. Source: Somebody 2026."
    )
    assert 'data-column="zeta_2_share"' in page.render(board)
    figure = next(f for f in index.draw(board, plot_data.tables(board)) if f.name == "accuracy-against-eps")
    assert [panel.title for panel in figure.panels] == ["Under My robustness"]
    assert figure.header == ("Defense", "Attack", *(f"strength = {s}, %" for s in range(4)))
    (line,) = [line for line in figure.numbers if show(line[0]) == row.defense]
    assert show(line[4]) == f"{100 * cell.value:.0f}"
    frame = leaderboard.leaderboard_frame(board).set_index("defense")
    assert frame.at[row.defense, "zeta_2_share_low"] == cell.low
    exported = json.loads((tmp_path / "leaderboard.json").read_text())["rows"][0]["cells"]["zeta_2_share"]
    assert (exported["value"], exported["low"], exported["high"]) == (cell.value, cell.low, cell.high)


@pytest.mark.parametrize("norm", ["linf", "corruptions"])
def test_a_suite_ranks_by_the_robust_column_of_its_threat(tmp_path: Path, fabricate: ModuleType, norm: str) -> None:
    """Whatever the norm; the parameter that the suite's eps means is declared with the column."""
    threat = {"norm": norm, "eps": 2.0}
    facts: dict[str, Any] = {"role": "robust", "params": {"norm": norm, "eps": 2.0}, "ranks": 1}
    board, tables = third_party(fabricate, tmp_path, threat, **facts)
    assert board.ranking.startswith("zeta_")
    column = board.ranking_column
    assert column is not None
    means = {name: table[column.example_column].mean() for name, table in tables.items()}
    assert [row.defense for row in board.rows] == sorted(means, key=lambda name: -means[name])
    assert [row.rank for row in board.rows] == [1, 2, 3, 4]


def test_another_threat_does_not_rank(tmp_path: Path, fabricate: ModuleType) -> None:
    facts: dict[str, Any] = {"role": "robust", "params": {"norm": "linf", "eps": 2.0}, "ranks": 1}
    board, _ = third_party(fabricate, tmp_path, {"norm": "l2", "eps": 2.0}, **facts)
    assert board.ranking == ""
