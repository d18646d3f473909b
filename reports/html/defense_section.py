"""What the section of one defense shows beside its row: stages, tightness of bounds, columns, checks, cost, cells."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.exports import manifest
from bench.reports.figures.plot_data import numbers
from bench.reports.html.adversarial_examples import Gallery, gallery
from bench.store.plan_record import PlanRecord

Lines = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """The tables of one defense; empty where there is nothing to show.

    Attributes:
        command: what makes this row alone.
        belief: whether the row can be believed, in sentences.
        manifest: its entries of manifest.json, as text.
        stages: (stage, images, share in per cent) of what broke the images under the ranking attack.
        tightness: headings and lines of measured over bound, for what must hold.
        rates: headings and lines of measured over stated, for what may fail.
        against: (column, median, largest, images) of columns over their companion bound.
        shares: (activation or loss, per cent, bar's length 0-100) of the curvature along its top direction.
        violations: where a bound was violated, in words.
        notes: what else a reader must know: why bounds do not apply, how loose the certificate is.
        columns: (column, mean, median, 5 %, 95 %, missing) of every per-example column.
        checks: (check, seed, verdict, value) of the trust grade, failed ones first.
        cost: (evaluation, seconds, forwards, backwards, images), sums over seeds.
        cells: (what, seed, key).
        gallery: pictures of broken images.
    """

    command: str
    belief: tuple[str, ...]
    manifest: str
    stages: Lines
    tightness: tuple[tuple[str, ...], Lines]
    rates: tuple[tuple[str, ...], Lines]
    against: Lines
    shares: Lines
    violations: tuple[str, ...]
    notes: tuple[str, ...]
    columns: Lines
    checks: Lines
    cost: Lines
    cells: Lines
    gallery: Gallery | None


def section(board: Board, row: Row, table: pd.DataFrame) -> Section:
    """Return everything that the section of a defense shows; `table` holds its examples."""
    return Section(
        command=row_command(board.plan, row),
        belief=tuple(_belief(board, row)),
        manifest=manifest.row_manifest(row),
        stages=tuple(_stages(board, table)),
        tightness=_ratios(board, table, "tightness_"),
        rates=_ratios(board, table, "ratio_"),
        against=tuple(_against_bounds(table)),
        shares=tuple(_shares(table)),
        violations=tuple(_violations(table)),
        notes=tuple(_notes(table)),
        columns=tuple(_columns(table)),
        checks=tuple(_checks(row)),
        cost=tuple(_cost(row)),
        cells=tuple(_cells(row)),
        gallery=gallery(board, row, table),
    )


def row_command(plan: PlanRecord, row: Row) -> str:
    """Return the command that makes this row alone: the board's, with its defense and seeds.

    A row that was handed over was made by another command (`evaluate`), which this board does not know: "".
    """
    if any(facts.get("provenance") == "handed over" for facts in row.facts.values()):
        return ""
    try:
        parts = shlex.split(plan.command)
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


def _belief(board: Board, row: Row) -> Iterator[str]:
    """Yield what speaks for and against the row's numbers, in words."""
    short, sentence = formatting.GRADES[row.trust]
    yield f"{short[:1].upper()}{short[1:]}. {sentence}"
    if row.trust_failed:
        yield f"Failed checks: {', '.join(row.trust_failed)}."
    if row.bound_violations is None:
        yield "No proved bound was checked on it."
    else:
        k = row.bound_violations
        yield "No proved bound was violated." if k == 0 else f"{formatting.plural(k, 'proved bound')} violated."
    known = row.cells.get(board.ranking.replace("autoattack", "best_known", 1))
    own = row.cells.get(board.ranking)
    if known and own and known is not own and known.value is not None and own.value is not None:
        lost = round((own.value - known.value) * own.n * len(own.by_seed))
        yield (
            "Adversarial examples made for the other defenses broke nothing more."
            if lost == 0
            else f"Adversarial examples made for the other defenses broke {formatting.plural(lost, 'image')} more."
        )
    if own and len(own.by_seed) > 1:
        values = sorted(own.by_seed.values())
        ends = " to ".join(formatting.percent(v, own.n) for v in (values[0], values[-1]))
        yield f"Its {len(values)} trained models range from {ends}\u00a0%."
    elif own:
        yield "It was trained once: nothing is known of how far another training would differ."


def _stages(board: Board, table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield how many images each stage of the ranking attack broke, over all seeds."""
    column = f"{board.ranking}_broken_by"
    if column not in table:
        return
    stages = table[column].dropna().astype(str)
    for stage, k in stages.value_counts(sort=True).items():
        name = {"": "not broken", "clean": "wrong without an attack"}.get(str(stage), str(stage))
        yield name, f"{k:,}", f"{100 * k / len(stages):.1f}"


def _ratios(board: Board, table: pd.DataFrame, prefix: str) -> tuple[tuple[str, ...], Lines]:
    """Return columns that hold measured over stated: a line per statement, a column per radius and direction.

    A cell is "median / largest" for what must hold, "median / share of images above 1" for what may fail.
    """
    cells: dict[str, dict[str, str]] = {}
    for name in (c for c in table.columns if c.startswith(prefix)):
        v = numbers(table, name)
        v = v[~np.isnan(v)]
        if len(v):
            statement, where = _statement(board, name)
            extreme = (
                formatting.number(float(v.max())) if prefix == "tightness_" else f"{100 * float((v > 1).mean()):.0f} %"
            )
            cells.setdefault(statement, {})[where] = f"{formatting.number(float(np.median(v)))} / {extreme}"
    places = list(dict.fromkeys(where for line in cells.values() for where in line))
    lines = tuple((statement, *(line.get(p, "") for p in places)) for statement, line in cells.items())
    return ("Statement", *places), lines


def _statement(board: Board, name: str) -> tuple[str, str]:
    """Return a column's description up to its colon, and its radius and direction."""
    for facts in board.plan.evaluations.values():
        for pattern, column in facts.columns.items():
            expression = re.escape(pattern).replace(r"\{radius\}", r"([0-9.e+-]+)")
            if match := re.fullmatch(expression, name):
                direction = "worst" if name.endswith("_worst") else "random"
                where = f"{match[1]}, {direction}" if match.groups() else "at the image"
                return column.description.split(":")[0], where
    return name, ""


def _against_bounds(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield measured over bound for columns with a companion `…_bound` (the worst direction where measured)."""
    for bound in (c for c in table.columns if c.endswith("_bound")):
        base = bound.removesuffix("_bound")
        measured = f"{base}_worst" if f"{base}_worst" in table else base
        if measured not in table:
            continue
        a, b = numbers(table, measured), numbers(table, bound)
        ratio = a[b > 0] / b[b > 0]
        ratio = ratio[~np.isnan(ratio)]
        if len(ratio):
            yield (
                measured,
                formatting.number(float(np.median(ratio))),
                formatting.number(float(ratio.max())),
                f"{len(ratio):,}",
            )


def _shares(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield the mean share of each activation and of the loss in the curvature along its top direction."""
    prefix = "curvature_share_"
    for name in (c for c in table.columns if c.startswith(prefix)):
        v = numbers(table, name)
        if not np.isnan(v).all():
            share, what = 100 * float(np.nanmean(v)), name.removeprefix(prefix)
            bar = min(100.0, max(0.0, share))
            yield (f"activation {what}" if what.isdigit() else what), formatting.number(share), f"{bar:.1f}"


def _violations(table: pd.DataFrame, most: int = 10) -> Iterator[str]:
    """Yield the stored words of up to `most` violated bounds, with image and seed."""
    if "bound_violation" in table:
        text = table["bound_violation"].fillna("").astype(str)
        for i in table.index[text != ""][:most]:
            yield f"{text[i]} (image {table.at[i, 'index']}, seed {table.at[i, 'seed']})"


def _notes(table: pd.DataFrame) -> Iterator[str]:
    """Yield remarks on bounds and certificate."""
    for column, what in (("bounds_not_applicable", "Bounds"), ("certificate_not_applicable", "The certificate")):
        if column in table:
            for reason in dict.fromkeys(r for r in table[column].dropna().astype(str) if r):
                yield f"{what}: not applicable ({reason}). Nothing is claimed, nothing passed."
    if "bounds_undecided" in table and (k := int(np.nansum(numbers(table, "bounds_undecided")))):
        yield f"{formatting.plural(k, 'statement')} could not be decided: the grid was still moving at its finest."
    if {"certified_radius", "lipschitz_constant", "local_slope"} <= set(table.columns):
        radius, constant, slope = (numbers(table, c) for c in ("certified_radius", "lipschitz_constant", "local_slope"))
        if not np.isnan(constant).all():
            loose = np.nanmedian(constant) / np.nanmax(slope)
            middle, limit = float(np.nanmedian(radius)), float(np.nanmedian(constant))
            yield (
                f"Certified ℓ₂ radius: median {formatting.number(middle)}, from a Lipschitz constant of "
                f"{formatting.number(limit)}, which is {formatting.number(float(loose))} times the largest slope met."
            )


def _columns(table: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Yield mean, median, 5 %, 95 % and the missing of every per-example number; of a flag the share of true."""
    for name in table.columns.drop(["defense", "seed", "index", "label"], errors="ignore"):
        if pd.api.types.is_string_dtype(table[name].dtype):
            continue
        v = numbers(table, name)
        missing, v = int(np.isnan(v).sum()), v[~np.isnan(v)]
        if not len(v):
            continue
        if pd.api.types.is_bool_dtype(table[name].dtype):
            yield name, formatting.number(float(v.mean())), "", "", "", f"{missing:,}"
        else:
            points = np.quantile(v, (0.5, 0.05, 0.95), method="nearest")
            yield name, *(formatting.number(float(p)) for p in (v.mean(), *points)), f"{missing:,}"


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
        text = formatting.number(float(value)) if isinstance(value, int | float) else formatting.MISSING
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
        yield (
            key,
            formatting.duration(seconds),
            formatting.count(forwards),
            formatting.count(backwards),
            f"{images:,.0f}",
        )


def _cells(row: Row) -> Iterator[tuple[str, ...]]:
    """Yield the keys of weights and cells, by which the store finds them."""
    for seed, facts in row.facts.items():
        if facts.get("training", {}).get("weights"):
            yield "weights (SHA-256)", str(seed), facts["training"]["weights"]
        if facts.get("train_cell"):
            yield "training", str(seed), facts["train_cell"]
        for key, cell in facts.get("evaluations", {}).items():
            yield key, str(seed), cell
