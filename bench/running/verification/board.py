"""The exported board against the store: the numbers of leaderboard.json and leaderboard.csv follow from its tables."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError
from bench.reports.board.build import build
from bench.reports.board.choice import MOST_BYTES, chosen, narrowing_of
from bench.reports.exports.csv import csv_text
from bench.reports.exports.leaderboard import row_record
from bench.running.verification.findings import Verification
from bench.store.store import Store

TOLERANCE: Final = 1e-9  # relative; sums may be taken in another order elsewhere


def check_board(store: Store, folder: Path, found: Verification) -> None:
    """Compare the exported board with the one that the store gives.

    Args:
        store: an open store.
        folder: where the exports lie.
        found: what does not hold is noted here.
    """
    try:
        shown = chosen(store.plans, None, *_narrowed(folder, found))
    except UsageError as error:
        found.fail("leaderboard.json", f"narrowed to a row that is not there: {error}")
        return
    board = build(store, shown)
    expected = {row.defense: dict(row_record(row, board.columns)) for row in board.rows}
    texts = {row["defense"]: row for row in csv.DictReader(io.StringIO(csv_text(board)))}
    _check_file(folder / "leaderboard.json", _json_rows, expected, found)
    _check_file(folder / "leaderboard.csv", _csv_rows, texts, found)


def _narrowed(folder: Path, found: Verification) -> tuple[tuple[str, ...], bool]:
    """Return to which rows the report is narrowed, and whether to the last command's; a note says so."""
    defenses, only = narrowing_of(folder)
    if defenses or only:
        what = ", ".join(defenses) or "the last command's rows"
        found.notes.append(f"leaderboard.json: the report was narrowed to {what}; places are among these")
    return defenses, only


def _check_file(path: Path, parse: object, expected: Mapping[str, Mapping[str, object]], found: Verification) -> None:
    assert callable(parse)
    if not path.is_file():
        found.notes.append(f"{path.name}: not there, not compared")
        return
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        rows: dict[str, Mapping[str, object]] = parse(path.read_text("utf-8"))
    except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        found.fail(path.name, f"expected the board, got {type(error).__name__}: {error}"[:300])
        return
    if rows.keys() != expected.keys():
        found.fail(path.name, f"expected the rows {sorted(expected)}, got {sorted(rows)}"[:300])
        return
    absent = dict.fromkeys(name for defense, row in expected.items() for name in row if name not in rows[defense])
    if absent:
        found.notes.append(f"{path.name}: without what this version of bench also shows: {', '.join(absent)}")
    for defense, row in expected.items():
        for name, value in row.items():
            if name in rows[defense] and not _same(value, rows[defense][name]):
                found.fail(
                    path.name, f"{defense}, {name}: expected {value!r} by the store, got {rows[defense][name]!r}"
                )


def _json_rows(text: str) -> dict[str, Mapping[str, object]]:
    return {row["defense"]: row for row in json.loads(text)["rows"]}


def _csv_rows(text: str) -> dict[str, Mapping[str, object]]:
    return {row["defense"]: row for row in csv.DictReader(io.StringIO(text))}


def _same(a: object, b: object) -> bool:
    """Tell whether two entries are the same; numbers, also as texts, up to the order of sums."""
    if a == b:
        return True
    try:
        return math.isclose(float(str(a)), float(str(b)), rel_tol=TOLERANCE)
    except ValueError:
        return False
