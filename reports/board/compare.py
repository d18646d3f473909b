"""Compare two defenses of a result folder, or two folders defense by defense, on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from bench.config.defense_spec import normal_form
from bench.core.errors import UsageError, did_you_mean
from bench.core.stats.intervals import ALPHA
from bench.core.stats.paired import (
    DRAWS,
    Paired,
    bootstrap_difference,
    bootstrap_mean,
    compare_flags,
    compare_values,
    integer_differences,
    simultaneous,
)
from bench.reports.board.build import build
from bench.reports.board.columns import BoardColumn
from bench.reports.board.comparison import Comparison, ComparisonReport, Discordant, Verdict
from bench.reports.board.model import Board
from bench.store.database import NAME
from bench.store.store import Store


def compare(out: str | Path, a: str, b: str) -> ComparisonReport:
    """Compare two defenses of the folder `out`, or two result folders defense by defense.

    With several seeds the verdict is about these trained models (see `bench.core.stats.seeds`).

    Args:
        out: the result folder; not used if `a` and `b` are folders.
        a: a defense of `out`, or a result folder: the old one.
        b: likewise: the new one.

    Returns:
        The comparisons with their verdicts.

    Raises:
        UsageError: no such defense, nothing in common, or the folders hold other images.
        MachineError: there is no store in the folder.
    """
    folders = [(Path(name) / NAME).is_file() for name in (a, b)]
    if all(folders):
        return _folders(Path(a), Path(b))
    if any(folders):
        raise UsageError(f"compare: expected two defenses or two result folders, got {a!r} and {b!r}. Give two alike.")
    board = _board(Path(out))
    first, second = _defense(board, a, out), _defense(board, b, out)
    if first == second:
        raise UsageError(f"compare: expected two defenses, got {first!r} twice. Name another.")
    sides = (board, first, first), (board, second, second)
    return _report(*_pair(*sides, ""), _lacks(sides))


def _folders(a: Path, b: Path) -> ComparisonReport:
    """Compare two folders on the defenses that both have."""
    old, new = _board(a), _board(b)
    prints = [board.plan.data.test.fingerprint for board in (old, new)]
    if prints[0] != prints[1]:
        raise UsageError(
            f"compare: expected the same test images, got fingerprints {prints[0][:12]} in {a} and {prints[1][:12]} "
            f"in {b}. Run both with the same data and --limit."
        )
    both = [row.defense for row in old.rows if row.defense in {r.defense for r in new.rows}]
    if not both:
        raise UsageError(f"compare: expected a defense that {a} and {b} share, got none. Check the folders.")
    found: list[Open] = []
    skipped, notes = list[str](), list[str]()
    for name in both:
        sides = (old, name, str(a)), (new, name, str(b))
        more, reasons = _pair(*sides, name)
        found += more
        skipped += reasons
        notes += _lacks(sides)
    return _report(found, skipped, notes)


def _board(out: Path) -> Board:
    with Store.open(out) as store:
        return build(store)


def _defense(board: Board, name: str, out: str | Path) -> str:
    """Return the board's spec of a defense."""
    wanted = normal_form(name)
    for row in board.rows:
        if normal_form(row.defense) == wanted:
            return row.defense
    hint = did_you_mean(name, [row.defense for row in board.rows])
    raise UsageError(f"compare: expected a defense of {out}, got {name!r}. {hint}")


Side = tuple[Board, str, str]  # a board, a defense of it, and how to call this side
# A comparison without its verdict, its unadjusted test, and level to the ends of its interval.
Open = tuple[Comparison, Paired, Callable[[float], tuple[float, float]]]


def _pair(a: Side, b: Side, defense: str) -> tuple[list[Open], list[str]]:
    """Compare two defenses on every column that both measured in the same way and that has a better side."""
    found, skipped = list[Open](), list[str]()
    others = {column.name: column for column in b[0].columns}
    for column in a[0].columns:
        if not column.evaluation or column.facts.direction == "none" or column.facts.aggregate == "sum":
            continue
        twin = others.get(column.name)
        if twin is None or _setting(a[0], column) != _setting(b[0], twin):
            skipped.append(f"{defense} {column.name}: not measured with the same settings in {a[2]} and {b[2]}".strip())
            continue
        old, new = _outcomes(a[0], a[1], column), _outcomes(b[0], b[1], twin)
        images = old.index.intersection(new.index)
        if not len(images):
            skipped.append(f"{defense} {column.name}: no image measured for both {a[2]} and {b[2]}".strip())
            continue
        found.append(_compare((a[2], b[2], defense), column, old.loc[images], new.loc[images], a[0]))
    return found, skipped


def _lacks(sides: Iterable[Side]) -> list[str]:
    """Return what the rows of two sides lack of their seeds, images, evaluations or trust, in words."""
    rows = ((called, row) for board, name, called in sides for row in board.rows if row.defense == name)
    return [
        f"{row.defense}{'' if called == row.defense else f' in {called}'} is {row.doubt}"
        for called, row in rows
        if row.doubt
    ]


def _setting(board: Board, column: BoardColumn) -> tuple[str, ...]:
    """Return what must agree for two numbers to be comparable."""
    planned = board.plan.evaluations.get(column.evaluation)
    return tuple(repr(getattr(planned, key, None)) for key in ("evaluation", "version", "arguments", "seed", "split"))


def _outcomes(board: Board, defense: str, column: BoardColumn) -> pd.DataFrame:
    """Return a column, images × seeds, of seeds with any value; images on which one of these has none are left out."""
    table = board.train_examples if column.split == "train" else board.examples
    mine = table[table["defense"] == defense]
    wide = mine.pivot(index="index", columns="seed", values=column.example_column).astype("float64")
    measured = wide.dropna(axis="columns", how="all")
    return measured.dropna() if len(measured.columns) else measured.iloc[:0]


def _compare(
    names: tuple[str, str, str], column: BoardColumn, old: pd.DataFrame, new: pd.DataFrame, board: Board
) -> Open:
    """Compare one column; the difference is new − old. The verdict and the interval wait for the adjustment."""
    fraction = column.facts.aggregate == "fraction"
    x, y = old.to_numpy().T, new.to_numpy().T
    paired: Paired = compare_flags(y == 1, x == 1) if fraction else compare_values(y.mean(0), x.mean(0))
    flags = partial(bootstrap_difference, *integer_differences(y == 1, x == 1))
    numbers = partial(bootstrap_mean, y.mean(0) - x.mean(0), draws=DRAWS)
    comparison = Comparison(
        a=names[0],
        b=names[1],
        defense=names[2],
        column=column.name,
        direction=column.facts.direction,
        a_value=float(x.mean()),
        b_value=float(y.mean()),
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        p=paired.p,
        p_holm=1.0,
        n=paired.n,
        verdict="no difference shown",
        gates=fraction,
        discordant=tuple(_discordant(x, y, old.index, board)) if fraction else (),
    )
    return comparison, paired, flags if fraction else numbers


def _discordant(x: np.ndarray, y: np.ndarray, index: pd.Index, board: Board) -> Iterable[Discordant]:
    """Yield the images on which the shares of right models differ, the lost ones first."""
    labels = board.examples.drop_duplicates("index").set_index("index")["label"]
    a, b = x.mean(0), y.mean(0)
    places = np.flatnonzero(a != b)
    for place in sorted(places, key=lambda i: (b[i] - a[i], index[i])):
        image = int(index[place])
        yield Discordant(image, int(labels.get(image, -1)), float(a[place]), float(b[place]))


def _report(found: list[Open], skipped: list[str], notes: list[str]) -> ComparisonReport:
    """Adjust p-values and intervals, fractions and other numbers apart, and give the verdicts.

    Returns:
        The report.

    Raises:
        UsageError: nothing could be compared.
    """
    if not found:
        reasons = "; ".join(skipped) or "no column in common"
        raise UsageError(f"compare: expected at least one column that both measured, got none ({reasons}). Run both.")
    judged: dict[int, Comparison] = {}
    for family in (True, False):
        members = [i for i, (c, *_) in enumerate(found) if c.gates == family]
        paired, p = simultaneous([found[i][1] for i in members], [found[i][2] for i in members])
        judged |= {i: _judged(found[i][0], *of) for i, *of in zip(members, paired, p, strict=True)}
    return ComparisonReport(tuple(judged[i] for i in sorted(judged)), tuple(skipped), tuple(notes))


def _judged(c: Comparison, paired: Paired, p_holm: float) -> Comparison:
    verdict: Verdict = "no difference shown"
    if p_holm < ALPHA and c.difference != 0:
        verdict = "better" if (c.difference > 0) == (c.direction == "higher") else "worse"
    return replace(c, low=paired.low, high=paired.high, p_holm=float(p_holm), verdict=verdict)
