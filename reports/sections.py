"""What the section of one defense shows beside its row: stages, tightness of bounds, columns, checks, cost, cells."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.reports import words
from bench.reports.board import Board, Row
from bench.reports.pictures import Gallery, gallery
from bench.reports.series import numbers

Lines = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """The tables of one defense; empty where there is nothing to show.

    Attributes:
        command: what makes this row alone.
        stages: (stage, images, share in per cent) of what broke the images under the ranking attack.
        tightness: (quantity, median ratio, 5 %, 95 %, images) of measured over bound.
        columns: (column, mean, median, 5 %, 95 %, missing) of every per-example column.
        checks: (check, seed, verdict, value) of the trust grade, failed ones first.
        cost: (evaluation, seconds, forwards, backwards, images), sums over seeds.
        cells: (what, seed, key).
        gallery: pictures of broken images.
    """

    command: str
    stages: Lines
    tightness: Lines
    columns: Lines
    checks: Lines
    cost: Lines
    cells: Lines
    gallery: Gallery | None


def section(board: Board, row: Row, table: pd.DataFrame) -> Section:
    """Return everything that the section of a defense shows; `table` holds its examples."""
    return Section(
        command=row_command(board.plan, row),
        stages=tuple(_stages(board, table)),
        tightness=tuple(_tightness(table)),
        columns=tuple(_columns(table)),
        checks=tuple(_checks(row)),
        cost=tuple(_cost(row)),
        cells=tuple(_cells(row)),
        gallery=gallery(board, row, table),
    )


def row_command(plan: dict[str, Any], row: Row) -> str:
    """Return the command that makes this row alone: the board's, with its defense and seeds.

    A row that was handed over was made by another command (`evaluate`), which this board does not know: "".
    """
    if any(facts.get("provenance") == "handed over" for facts in row.facts.values()):
        return ""
    try:
        parts = shlex.split(plan.get("command", ""))
    except ValueError:
        return ""
    kept, skip = [], False
    for part in parts:
        option = part.partition("=")[0] in ("--defense", "--seeds")
        if not skip and not option:
            kept.append(part)
        skip = not skip and option and "=" not in part
    seeds = ",".join(str(s) for s in row.seeds)
    return shlex.join([*kept, "--defense", row.defense, "--seeds", seeds])


def _stages(board: Board, table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield how many images each stage of the ranking attack broke, over all seeds."""
    column = f"{board.ranking}_broken_by"
    if column not in table:
        return
    stages = table[column].dropna().astype(str)
    for stage, k in stages.value_counts(sort=True).items():
        name = {"": "not broken", "clean": "wrong without an attack"}.get(str(stage), str(stage))
        yield name, f"{k:,}", f"{100 * k / len(stages):.1f}"


def _tightness(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield measured / bound for every column with a companion `…_bound` (the worst direction where measured)."""
    for bound in (c for c in table.columns if c.endswith("_bound")):
        base = bound.removesuffix("_bound")
        measured = f"{base}_worst" if f"{base}_worst" in table else base
        if measured not in table:
            continue
        a, b = numbers(table, measured), numbers(table, bound)
        ok = ~np.isnan(a) & (b > 0)
        if ok.any():
            low, middle, high = np.quantile(a[ok] / b[ok], (0.05, 0.5, 0.95))
            yield measured, *(words.number(float(v)) for v in (middle, low, high)), f"{ok.sum():,}"


def _columns(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield mean, median, 5 %, 95 % and the missing of every per-example number; of a flag the share of true."""
    for name in table.columns.drop(["defense", "seed", "index", "label"], errors="ignore"):
        v = numbers(table, name)
        missing, v = int(np.isnan(v).sum()), v[~np.isnan(v)]
        if not len(v):
            continue
        if pd.api.types.is_bool_dtype(table[name].dtype):
            yield name, words.number(float(v.mean())), "", "", "", f"{missing:,}"
        else:
            points = np.quantile(v, (0.5, 0.05, 0.95), method="nearest")
            yield name, *(words.number(float(p)) for p in (v.mean(), *points)), f"{missing:,}"


def _checks(row: Row) -> Iterator[tuple[str, ...]]:
    """Yield the checks behind the trust grade of each seed, failed ones first."""
    found = [
        (check["verdict"] != "fail", name, seed, check)
        for seed, facts in row.facts.items()
        for info in facts.get("info", {}).values()
        for name, check in info.get("trust", {}).get("checks", {}).items()
    ]
    for _, name, seed, check in sorted(found, key=lambda f: f[:3]):
        value = check.get("value")
        text = words.number(float(value)) if isinstance(value, int | float) else words.MISSING
        words_of = f"{name}: {check['description']}" if check.get("description") else name
        yield words_of, str(seed), str(check["verdict"]), text


def _cost(row: Row) -> Iterator[tuple[str, ...]]:
    """Yield time and passes of each evaluation, sums over seeds."""
    infos: dict[str, list[dict[str, Any]]] = {}
    for facts in row.facts.values():
        for key, info in facts.get("info", {}).items():
            infos.setdefault(key, []).append(info)
    for key, parts in infos.items():
        seconds, forwards, backwards, images = (
            sum(float(p.get(k) or 0.0) for p in parts) for k in ("seconds", "forwards", "backwards", "images")
        )
        yield key, words.duration(seconds), words.count(forwards), words.count(backwards), f"{images:,.0f}"


def _cells(row: Row) -> Iterator[tuple[str, ...]]:
    """Yield the keys of weights and cells, by which the store finds them."""
    for seed, facts in row.facts.items():
        if facts.get("training", {}).get("weights"):
            yield "weights (SHA-256)", str(seed), facts["training"]["weights"]
        if facts.get("train_cell"):
            yield "training", str(seed), facts["train_cell"]
        for key, cell in facts.get("evaluations", {}).items():
            yield key, str(seed), cell
