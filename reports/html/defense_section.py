"""What the section of one defense shows beside its row, table by table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from bench.core.stats.intervals import nearest
from bench.reports import formatting
from bench.reports.board.challenges import counts_transfer
from bench.reports.board.model import Board, Row
from bench.reports.board.precision import gate_sentences
from bench.reports.board.races import race_sentences
from bench.reports.exports import manifest
from bench.reports.formatting import Lines, Value
from bench.reports.html import bound_tables, corruption_table, run_tables
from bench.reports.html.adversarial_examples import Gallery, gallery
from bench.reports.html.again import row_command
from bench.reports.html.sprite import Sprite


@dataclass(frozen=True)
class DefenseSection:
    """The tables of one defense; empty where there is nothing to show.

    Attributes:
        command: what makes this row alone.
        belief: whether the row can be believed, in sentences.
        manifest: its entries of manifest.json, as text.
        stages: headings and lines of what broke the images under the ranking attack, stage by stage.
        alone: what is known of the stages alone, in words.
        kinds: (attack, seed, runs, images of its first run, images of it alone) of the repeated attacks.
        repeat: the bound on a repeat of the same attacks, a sentence per seed.
        tightness: headings and lines of measured over bound, for what must hold.
        rates: headings and lines of measured over stated, for what may fail.
        against: (column, median, largest, images) of columns over their companion bound.
        shares: parts of the curvature along its top direction.
        violations: where a bound was violated, in words.
        corruptions: headings and lines of accuracy by corruption and severity.
        notes: what else a reader must know: why bounds do not apply, how loose the certificate is.
        columns: (column, mean, median, 5 %, 95 %, missing) of every per-example column.
        checks: (check, seed, verdict, what was found) of the trust checks that did not pass.
        passed: which passed, a line per seed.
        verdicts: how many failed, could not be made and passed, over all seeds; "" where trust was not assessed.
        cost: (evaluation, seconds, forwards, backwards, images), sums over seeds.
        cells: (what, seed, key).
        gallery: adversarial examples.
    """

    command: str
    belief: tuple[str, ...]
    manifest: str
    stages: run_tables.Stages
    alone: str
    kinds: Lines
    repeat: tuple[str, ...]
    tightness: tuple[tuple[str, ...], Lines]
    rates: tuple[tuple[str, ...], Lines]
    against: Lines
    shares: tuple[bound_tables.Share, ...]
    violations: tuple[str, ...]
    corruptions: tuple[tuple[str, ...], Lines]
    notes: tuple[str, ...]
    columns: Lines
    checks: Lines
    passed: tuple[str, ...]
    verdicts: str
    cost: Lines
    cells: Lines
    gallery: Gallery | None


def defense_section(board: Board, row: Row, table: pd.DataFrame, sprite: Sprite) -> DefenseSection:
    """Return everything that the section of a defense shows.

    Args:
        board: what was measured.
        row: the defense.
        table: its per-example table.
        sprite: the pictures are added to it.
    """
    broken_by = run_tables.broken_by(board, table)
    return DefenseSection(
        command=row_command(board, row),
        belief=(*_belief(board, row), *race_sentences(board, table)),
        manifest=manifest.row_manifest(row),
        stages=run_tables.stages(broken_by),
        alone=run_tables.alone(broken_by),
        kinds=tuple(run_tables.kinds_alone(row)),
        repeat=tuple(f"Seed {seed}: {found.sentence}" for seed, found in row.repeats.items()),
        tightness=bound_tables.ratios(board, table, "tightness"),
        rates=bound_tables.ratios(board, table, "rate"),
        against=tuple(bound_tables.against_bounds(board, table)),
        shares=tuple(bound_tables.shares(board, table)),
        violations=tuple(bound_tables.violations(board, table)),
        corruptions=corruption_table.by_severity(board, table),
        notes=tuple(bound_tables.notes(board, table)),
        columns=tuple(run_tables.example_columns(table)),
        checks=tuple(run_tables.checks(row)),
        passed=tuple(run_tables.passed(row)),
        verdicts=run_tables.verdicts(row),
        cost=tuple(run_tables.cost(row)),
        cells=tuple(run_tables.cells(row)),
        gallery=gallery(board, row, table, sprite),
    )


def _belief(board: Board, row: Row) -> Iterator[str]:
    """Yield what speaks for and against the row's numbers, in words."""
    short, sentence = formatting.GRADES[row.trust]
    seed = f" ({row.assessment.who}, its worst)" if row.assessment.who else ""
    yield f"{short[:1].upper()}{short[1:]}{seed}. {sentence}"
    if not row.doubt:  # else they are the reason why it is not ranked
        yield from (f"{reason}." for reason in row.assessment.reasons)
    if row.bound_violations is None:
        yield "No proved bound was checked on it."
    else:
        k = row.bound_violations
        yield "No proved bound was violated." if k == 0 else f"{formatting.plural(k, 'proved bound')} violated."
    yield from _transferred(board, row)
    yield from gate_sentences(row)
    if row.audit is not None:
        yield f"Audited: {row.audit.statement}."
    own = row.cells.get(board.ranking)
    if own and len(own.by_seed) > 1:
        values = sorted(own.by_seed.values())
        ends = " to ".join(str(Value(v, "percent", own.n)) for v in (values[0], values[-1]))
        yield f"Its {len(values)} trained models range from {ends}\u00a0%."
    elif own:
        yield "It was trained once: nothing is known of how far another training would differ."


def _transferred(board: Board, row: Row) -> Iterator[str]:
    """Yield what the other defenses' adversarial examples, and challenges, broke beyond its own attack."""
    own, known = row.value(board.ranking_column), row.value(board.best_known())
    column = board.best_known()
    if own is None or known is None or column is None or row.cells[column.name].n != row.cells[board.ranking].n:
        return
    cell = row.cells[board.ranking]
    challenged = board.lowered_by_challenges(row.defense)
    if counts_transfer(column):
        lost = nearest((own - known) * cell.n * len(cell.by_seed)) - challenged
        more = "nothing" if lost == 0 else formatting.plural(lost, "image")
        yield f"Adversarial examples made for the other defenses broke {more} more."
    if challenged:
        yield f"Accepted challenges broke {formatting.plural(challenged, 'image')} more."
