"""What the template of the page shows: a typed model, made from the board."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from bench.core.records import Column, Grade
from bench.reports import formatting
from bench.reports.board.columns import OWN
from bench.reports.board.instruments import read_detection, read_museum
from bench.reports.board.model import Board, Row
from bench.reports.claims.records import Claims
from bench.reports.exports.registry import all_exports
from bench.reports.figures import index, loss_terms, plot_data
from bench.reports.figures.figure import Figure
from bench.reports.figures.palette import styles
from bench.reports.html.again import Again, again, load_line
from bench.reports.html.answers import Answer, summary
from bench.reports.html.defense_section import DefenseSection, defense_section
from bench.reports.html.headline import headline, unfinished
from bench.reports.html.packed import is_large, pairs_data
from bench.reports.html.pair_images import PairImages, pair_images
from bench.reports.html.presets import Preset, presets
from bench.reports.html.proofs import Proofs, proofs
from bench.reports.html.ranking_table import TableColumn, TableRow, table_columns, table_rows
from bench.reports.html.remarks import Remark, remarks
from bench.reports.html.sprite import Sprite
from bench.reports.html.trust_section import TrustSection, trust_section
from bench.store.plan_record import PlanRecord


@dataclass(frozen=True)
class Download:
    """What one button saves: the same content as the file beside the page; bytes are held in base64."""

    name: str
    media: str
    label: str
    content: str
    binary: bool = False


@dataclass(frozen=True)
class ExampleColumn:
    """One per-example column as an evaluation of the plan declares it."""

    pattern: str
    evaluation: str
    declared: Column


@dataclass(frozen=True)
class PageModel:
    """All that the template of the page reads.

    Attributes:
        board: the numbers.
        plan: what was run, on what.
        columns: of the ranking table.
        rows: of the ranking table.
        bounds: complete rows whose robust accuracies are upper bounds only, which stand below them in the same table.
        apart: the rows that are incomplete, and all others that are not ranked on a board that ranks.
        drawn: the rows that curves and panels show.
        undrawn: which complete rows they leave out, or what they show where nothing is ranked; "" for neither.
        grades: of trust, best first.
        headline: the verdict in one sentence.
        answers: questions that readers have, with their answers.
        again: how to make the board again.
        unfinished: how many cells of the run are done; "" where all are.
        presets: sets of columns, the one that is shown first as the first.
        remarks: where numbers of the table do not compare.
        backbones: what the rows are built on.
        attack: the ranking column in words.
        glossary: columns of the table that share their words, in the table's order.
        figures: all that the board allows.
        sections: defense to its section.
        terms: defense to the drawing of its loss terms, None without one.
        example_columns: of every evaluation of the plan.
        downloads: what the buttons save.
        claims: the paper's, with verdicts; None where the paper says nothing about these data.
        trust: the section on trust.
        pair_images: what one defense keeps and another loses; None: nothing tells two apart.
        brackets: what is proved and what is broken, by budget; empty where nothing is proved.
        sprite: all thumbnails.
        own: name to what the board's own columns are.
        loads: defense to the line of Python that loads its network; "" where there is none.
        differs: where the run differs from its suite, in words.
        large: whether the details of rows are held compressed.
        pairs: every pair compared, for the script, on a large board.
    """

    board: Board
    plan: PlanRecord
    columns: list[TableColumn]
    rows: list[TableRow]
    bounds: list[TableRow]
    apart: list[TableRow]
    drawn: list[TableRow]
    undrawn: str
    grades: list[str]
    headline: str
    answers: list[Answer]
    again: Again
    unfinished: str
    presets: list[Preset]
    remarks: list[Remark]
    backbones: list[str]
    attack: str
    glossary: list[list[TableColumn]]
    figures: list[Figure]
    sections: Mapping[str, DefenseSection]
    terms: Mapping[str, Figure | None]
    example_columns: list[ExampleColumn]
    downloads: list[Download]
    claims: Claims | None
    trust: TrustSection
    pair_images: PairImages | None
    brackets: list[Proofs]
    sprite: Sprite
    own: Mapping[str, Column]
    loads: Mapping[str, str]
    differs: str
    large: bool
    pairs: Mapping[str, object]


def page_model(board: Board) -> PageModel:
    """Return the model of a board's page."""
    columns, tables, sprite = table_columns(board), plot_data.tables(board), Sprite()
    doubts = remarks(board, tables)
    rows = table_rows(columns, styles(plot_data.names(board)), board.rows, doubts)
    shown = plot_data.drawn(board)
    terms = {row.defense: loss_terms.loss_terms(board, row) for row in board.rows}
    return PageModel(
        board=board,
        plan=board.plan,
        columns=columns,
        rows=[item for item in rows if not item.row.is_upper_bound and not _apart(board, item)],
        bounds=[item for item in rows if item.row.is_upper_bound],
        apart=[item for item in rows if not item.row.is_upper_bound and _apart(board, item)],
        drawn=[item for item in rows if item.row.defense in {row.defense for row in shown}],
        undrawn=undrawn(board, shown),
        grades=[grade.name for grade in Grade],
        headline=headline(board),
        answers=summary(board),
        again=again(board),
        unfinished=unfinished(board),
        presets=presets(columns),
        remarks=doubts,
        backbones=list(dict.fromkeys(row.architecture for row in board.rows if row.architecture)),
        attack=plot_data.title(board),
        glossary=[list(group) for _, group in groupby(columns, key=_words)],
        figures=index.draw(board, tables),
        sections={row.defense: defense_section(board, row, tables[row.defense], sprite) for row in board.rows},
        terms=terms,
        example_columns=[
            ExampleColumn(pattern, key, declared)
            for key, planned in board.plan.evaluations.items()
            for pattern, declared in planned.columns.items()
        ],
        downloads=_downloads(board),
        claims=board.claims,
        trust=trust_section(board, read_detection(), read_museum()),
        pair_images=pair_images(board, tables, sprite),
        brackets=proofs(board),
        sprite=sprite,
        own={column.name: column.facts for column in OWN},
        loads={row.defense: load_line(board.plan, row) for row in board.rows},
        differs=", ".join(f"{k} = {v}" for k, v in board.plan.overrides.items() if not isinstance(v, list)),
        large=is_large(board),
        pairs=pairs_data(board) if is_large(board) else {},
    )


def _apart(board: Board, item: TableRow) -> bool:
    """Tell whether a row stands below the table: it is incomplete, or not ranked on a board that ranks."""
    return bool(item.row.incomplete or (board.ranking and item.row.rank is None))


def undrawn(board: Board, shown: list[Row]) -> str:
    """Return what a reader of the figures must know of rows that they leave out, or that are not ranked.

    Args:
        board: what was measured.
        shown: the rows that curves and panels show.
    """
    bounds = [row.defense for row in shown if row.is_upper_bound]
    if bounds:
        return f"Upper bounds only, drawn as nothing is ranked: {formatting.listing(bounds)}."
    told = plot_data.told(board)
    if len(told) > len(shown):
        return (
            f"Curves, clouds and panels show the first {len(shown)} of {len(told)} rows: more could not be told apart. "
            "Titles, correlations across the defenses, and the figures with one mark per defense are about all of them."
        )
    names = {row.defense for row in shown}
    left = [r.defense for r in board.rows if r.cells and not r.incomplete and r.defense not in names]
    return f"Not drawn, as they are not ranked: {formatting.listing(left)}." if left else ""


def _words(column: TableColumn) -> tuple[str, ...]:
    """Return what columns that share a glossary entry have in common."""
    facts = column.facts
    return column.heading, facts.pattern, facts.description, facts.unit, facts.formula, facts.source


def _downloads(board: Board) -> list[Download]:
    """Return what the buttons save: every export that has a media type."""
    found = []
    for entry in all_exports():
        content = entry.make(board) if entry.media else None
        if isinstance(content, bytes):
            text = base64.b64encode(content).decode()
            found.append(Download(entry.name, entry.media, entry.label, text, binary=True))
        elif isinstance(content, str):
            found.append(Download(entry.name, entry.media, entry.label, content))
    return found
