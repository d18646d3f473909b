"""Tables in a defense's section: stages of the attack, per-example columns, trust checks, cost, cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from bench.core.stats.order import nearest_quantiles
from bench.reports import formatting
from bench.reports.board.join import KEYS
from bench.reports.board.model import Board, Row
from bench.reports.board.row_trust import failing
from bench.reports.board.stages import Stage, cascade
from bench.reports.board.training_cost import seconds
from bench.reports.figures.plot_data import numbers
from bench.reports.formatting import Entry, Lines, Value

UNBROKEN = {"": "not broken", "clean": "wrong without an attack"}  # stages that are none
Stages: TypeAlias = tuple[tuple[str, ...], Lines]  # headings and lines


@dataclass(frozen=True)
class BrokenBy:
    """What broke the images of one defense under the ranking attack, over all seeds.

    Attributes:
        counts: stage to images, the most first; "" and "clean" are none.
        stages: in their order, where that is known.
    """

    counts: Mapping[str, int]
    stages: tuple[Stage, ...]


def broken_by(board: Board, table: pd.DataFrame) -> BrokenBy:
    """Return what broke the images of one defense; nothing where that was not stored.

    Args:
        board: it says which column holds the stages.
        table: per-example table of the defense.
    """
    column = board.beside(board.ranking_column, "broken_by")
    if column is None or column not in table:
        return BrokenBy({}, ())
    found = table[column].dropna().value_counts(sort=False)
    counts = {str(name): int(k) for name, k in sorted(found.items(), key=lambda item: -item[1])}
    return BrokenBy(counts, cascade(str(board.facts[column].params.get("attack")), counts) if counts else ())


def stages(found: BrokenBy) -> Stages:
    """Return how many images each stage of the ranking attack broke, over all seeds, and how many without it.

    Where each stage attacks what the ones before have left, the stages stand in their order, with the images that
    would count as robust without a stage and those after it.

    Args:
        found: of one defense.

    Returns:
        Headings and lines; no line where no stage was stored.
    """
    heads, counts, known = ("Stage", "Images", "Share, %"), found.counts, found.stages
    order = [*(stage.name for stage in known), *(name for name in UNBROKEN if name in counts)] if known else counts
    missed = {stage.name: Value(stage.missed, "integer") for stage in known}
    lines = tuple(
        (
            Value(UNBROKEN.get(name, name)),
            Value(counts.get(name, 0), "integer"),
            Value(100 * counts.get(name, 0) / sum(counts.values()), "share"),
            *((missed.get(name),) if known else ()),
        )
        for name in order
    )
    return (*heads, *(("Missed without",) if known else ())), lines


def alone(found: BrokenBy) -> str:
    """Return what is known of the stages alone as a sentence, "" where their order is not known.

    Args:
        found: of one defense.
    """
    if not found.stages:
        return ""
    last = found.stages[-1]
    fell = formatting.plural(last.broken, "image") if last.broken else "No image"
    return (
        f"Missed without: images that would count as robust without the stage and those after it. {fell} fell to "
        f"{last.name} alone, as every other stage had been tried on them; of the others that is not known, as later "
        "stages were not tried on what an earlier one broke."
    )


def kinds_alone(row: Row) -> Iterator[tuple[Entry, ...]]:
    """Yield what each repeated attack broke: kind, seed, runs, images of its first run, images of it alone.

    Args:
        row: the defense.
    """
    for seed, found in row.repeats.items():
        for kind in found.kinds:
            yield Value(kind.kind), *(Value(k, "integer") for k in (seed, kind.runs, kind.broken, kind.alone))


def example_columns(table: pd.DataFrame) -> Iterator[tuple[Entry, ...]]:
    """Yield mean, median, 5 %, 95 % and the missing of every per-example number; of a flag the share of true.

    Args:
        table: per-example table of one defense.
    """
    for name in table.columns.drop(list(KEYS), errors="ignore"):
        if pd.api.types.is_string_dtype(table[name].dtype):
            continue
        v = numbers(table, name)
        missing, v = Value(int(np.isnan(v).sum()), "integer"), v[~np.isnan(v)]
        if not len(v):
            continue
        mean = Value(float(v.mean()), "number")
        if pd.api.types.is_bool_dtype(table[name].dtype):
            yield Value(name), mean, None, None, None, missing
        else:
            points = nearest_quantiles(v, (0.5, 0.05, 0.95))
            yield Value(name), mean, *(Value(float(p), "number") for p in points), missing


def checks(row: Row) -> Iterator[tuple[Entry, ...]]:
    """Yield the checks of trust that did not pass on every seed: check, seed, verdict, what was found.

    Args:
        row: the defense.
    """
    for seed, report in row.assessment.reports.items():
        for result in failing(report):
            yield (
                Value(f"{result.name}: {result.check.title}"),
                Value(seed, "integer"),
                Value(result.verdict),
                Value(result.finding.words),
            )


def verdicts(row: Row) -> str:
    """Return how many checks of trust failed, could not be made and passed, over all seeds.

    Args:
        row: the defense.

    Returns:
        The counts in words; "" where trust was not assessed.
    """
    found = Counter(result.verdict for report in row.assessment.reports.values() for result in report.results)
    counts = f"{found['fail']} failed, {found['not assessable']} could not be made, {found['pass']} passed"
    return counts if found else ""


def passed(row: Row) -> Iterator[str]:
    """Yield which checks of trust each seed passed, in one line per seed.

    Args:
        row: the defense.
    """
    for seed, report in row.assessment.reports.items():
        names = [result.name for result in report.results if result.verdict == "pass"]
        yield f"Seed {seed}, grade {report.grade.name}, passed: {formatting.listing(names) or 'none'}."


def cost(row: Row) -> Iterator[tuple[Entry, ...]]:
    """Yield time and passes of each evaluation, sums over seeds.

    Args:
        row: the defense.
    """
    infos: dict[str, list[Mapping[str, Any]]] = {}
    for run in row.runs.values():
        for key, info in run.info.items():
            infos.setdefault(key, []).append(info)
    for key, parts in infos.items():
        spent = sum(seconds(p) or 0.0 for p in parts)
        forwards, backwards, images = (
            sum(float(p.get(k) or 0.0) for p in parts) for k in ("forwards", "backwards", "images")
        )
        yield (
            Value(key),
            Value(spent, "seconds"),
            Value(forwards, "count"),
            Value(backwards, "count"),
            Value(images, "integer"),
        )


def cells(row: Row) -> Iterator[tuple[Entry, ...]]:
    """Yield the keys of weights and cells, by which the store finds them.

    Args:
        row: the defense.
    """
    for seed, run in row.runs.items():
        keys = {
            "weights (SHA-256)": run.training.get("weights"),
            "training": run.entry.train_cell,
            **run.entry.evaluations,
        }
        for what, key in keys.items():
            if key:
                yield Value(what), Value(seed, "integer"), Value(key)
