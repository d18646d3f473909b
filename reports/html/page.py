"""The leaderboard page: one self-contained HTML file, no network, safe with hostile names, always the same bytes."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import groupby, zip_longest
from typing import Any

import jinja2
from markupsafe import Markup

from bench.core.records import Column
from bench.reports import formatting
from bench.reports.board.model import OWN, Board
from bench.reports.exports import csv, json, latex, leaderboard, manifest, markdown, robustbench, writer
from bench.reports.figures import index, plot_data, training_curves
from bench.reports.figures.palette import styles
from bench.reports.figures.sheet import Figure
from bench.reports.html import defense_section, docstrings, ranking_table
from bench.reports.html.answers import headline, repeat, summary, unfinished


def render(board: Board) -> str:
    """Return the whole of `leaderboard.html`.

    The page holds all that it shows: CSS and JavaScript inline (the script allowed by its hash alone, in the page's
    Content-Security-Policy), figures as SVG, pictures and downloads as data. It works without JavaScript, from disk,
    off-line; names and descriptions are escaped wherever they stand.
    """
    script = _text("page.js")
    context = _context(board) | {"css": Markup(_text("page.css")), "script": Markup(script), "csp": policy(script)}
    return _environment().get_template("page.html").render(context)


def policy(script: str) -> str:
    """Return the Content-Security-Policy: nothing from anywhere, our own script by its hash, pictures as data."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    filters = (
        formatting.number,
        formatting.duration,
        formatting.count,
        formatting.label,
        formatting.moment,
        formatting.spelled,
        formatting.points,
        formatting.p_value,
    )
    environment.filters |= {f.__name__: f for f in filters} | {
        "href": href,
        "breakable": breakable,
        "blocks": docstrings.blocks,
        "kinds": kinds,
        "spoken": spoken,
        "code": docstrings.code,
    }
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "ensure_ascii": False}
    return environment


def _text(name: str) -> str:
    return resources.files("bench.reports.html").joinpath("templates", name).read_text("utf-8")


def href(link: str) -> str:
    """Return an http(s) link as it is, "#" for anything else: no other scheme becomes a link."""
    return link if link.startswith(("https://", "http://")) else "#"


def kinds(lines: Sequence[Sequence[str]]) -> list[bool]:
    """Tell of each column of a table of texts whether it holds numbers, which are set flush right."""
    columns = list(zip_longest(*lines, fillvalue=""))
    return [k > 0 and all(_NUMERIC.match(text) or not text for text in column) for k, column in enumerate(columns)]


_NUMERIC = re.compile(r"[−–-]?[\d∞]|–$|−?∞")


def spoken(value: Any) -> str:
    """Return an argument as readers see it: lists without brackets, nothing as "none"."""
    if isinstance(value, list | tuple):
        return ", ".join(spoken(v) for v in value) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value) if value != "" else "none"


def breakable(name: str) -> Markup:
    """Return a name, escaped, that may break into lines after "_" and ","."""
    return Markup("<wbr>").join(re.split(r"(?<=[_,])", name))


def _context(board: Board) -> dict[str, Any]:
    columns, tables = ranking_table.view_columns(board), plot_data.tables(board)
    rows = ranking_table.view_rows(columns, styles(plot_data.names(board)), list(board.rows))
    return {
        "board": board,
        "plan": board.plan,
        "columns": columns,
        "rows": [item for item in rows if item.row.rank is not None or not board.ranking],
        "apart": [item for item in rows if item.row.rank is None and board.ranking],
        "headline": headline(board),
        "answers": summary(board),
        "repeat": repeat(board),
        "unfinished": " ".join(unfinished(board)),
        "attack": plot_data.title(board),
        "glossary": [list(group) for _, group in groupby(columns, key=lambda c: (c.heading, c.facts))],
        "figures": [_safe(figure) for figure in index.draw(board, tables)],
        "sections": {row.defense: defense_section.section(board, row, tables[row.defense]) for row in board.rows},
        "terms": {row.defense: _drawn(training_curves.loss_terms(board, row)) for row in board.rows},
        "columns_of_examples": list(_example_columns(board)),
        "downloads": _downloads(board),
        "claims": board.claims,
        "shower": ranking_table.shower,
        "unit": ranking_table.unit,
        "own": {column.name: column.facts for column in OWN},
        "tip": ranking_table.tip,
        "differs": ", ".join(f"{k} = {v}" for k, v in board.plan.overrides.items() if not isinstance(v, list)),
    }


def _drawn(figure: Figure | None) -> Figure | None:
    return None if figure is None else _safe(figure)


def _safe(figure: Figure) -> Figure:
    """Mark the SVG, and nothing else, as safe: matplotlib escaped its texts."""
    return replace(figure, panels=tuple(replace(p, svg=Markup(p.svg)) for p in figure.panels))


@dataclass(frozen=True)
class Download:
    """What one button saves: the same content as the file beside the page; bytes are held in base64."""

    name: str
    media: str
    what: str
    content: str
    binary: bool = False


def _downloads(board: Board) -> list[Download]:
    """Return what the buttons save."""
    table = writer.parquet_bytes(leaderboard.leaderboard_frame(board))
    infos = robustbench.archive(board)
    files = [
        Download("leaderboard.csv", "text/csv", "CSV", csv.csv_text(board)),
        Download("leaderboard.json", "application/json", "JSON", json.json_text(board)),
        Download("leaderboard.md", "text/markdown", "Markdown", markdown.markdown_text(board)),
        Download("leaderboard.tex", "application/x-tex", "LaTeX", latex.latex_text(board)),
        Download("leaderboard.parquet", "application/vnd.apache.parquet", "Parquet", _base64(table), binary=True),
        Download("model_info.zip", "application/zip", "RobustBench model_info", _base64(infos), binary=True),
        Download("manifest.json", "application/json", "Manifest", manifest.manifest_text(board)),
    ]
    bibtex = dict.fromkeys(f["bibtex"].strip() for r in board.rows for f in r.facts.values() if f.get("bibtex"))
    return files + (
        [Download("leaderboard.bib", "application/x-bibtex", "BibTeX", "\n\n".join(bibtex) + "\n")] if bibtex else []
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _example_columns(board: Board) -> Iterable[tuple[str, str, Column]]:
    """Yield (pattern, evaluation, facts) of every per-example column that an evaluation of the plan declares."""
    for key, facts in board.plan.evaluations.items():
        for pattern, column in facts.columns.items():
            yield pattern, key, column
