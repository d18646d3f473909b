"""The leaderboard page: one self-contained HTML file, no network, safe with hostile names, the same bytes every time."""

from __future__ import annotations

import base64
import hashlib
import shlex
from importlib import resources
from typing import Any

import jinja2
from bench.reports import figures, view, words
from bench.reports.board import Board, Row
from bench.reports.palette import styles
from bench.reports.summary import attack, summary
from markupsafe import Markup


def render(board: Board) -> str:
    """Return the whole of `leaderboard.html`.

    The page holds everything that it shows: CSS and JavaScript inline (the script allowed by its hash alone, by the
    page's Content-Security-Policy), figures as SVG, pictures and downloads as data.
    """
    environment = _environment()
    script = _template_text("page.js")
    return environment.get_template("page.html").render(
        **_context(board),
        css=Markup(_template_text("page.css")),
        script=Markup(script),
        csp=policy(script),
    )


def policy(script: str) -> str:
    """Return the Content-Security-Policy: nothing from anywhere, our own script by its hash, pictures as data."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _environment() -> jinja2.Environment:
    loader = jinja2.FunctionLoader(_template_text)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "number": words.number,
        "duration": words.duration,
        "count": words.count,
        "label": words.label,
        "href": href,
        "moment": words.moment,
    }
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "ensure_ascii": False}
    return environment


def _template_text(name: str) -> str:
    return resources.files("bench.reports").joinpath("templates", name).read_text("utf-8")


def href(url: str) -> str:
    """Return an http(s) link as it is and anything else as "#": no other scheme becomes a link."""
    return url if url.startswith(("https://", "http://")) else "#"


def _context(board: Board) -> dict[str, Any]:
    columns = view.view_columns(board)
    slots = {name: style.slot for name, style in styles(figures.names(board)).items()}
    ranked = [r for r in board.rows if r.rank is not None]
    apart = [r for r in board.rows if r.rank is None]
    return {
        "board": board,
        "plan": board.plan,
        "columns": columns,
        "rows": view.view_rows(board, columns, slots, ranked),
        "apart": view.view_rows(board, columns, slots, apart),
        "answers": summary(board),
        "attack": attack(board),
        "figures": [_markup(f) for f in figures.draw(board)],
        "command": board.plan.get("command", ""),
        "row_command": lambda row: row_command(board.plan, row),
        "reason": reason,
    }


def _markup(figure: figures.Figure) -> dict[str, Any]:
    """Mark the SVG, and nothing else, as safe: matplotlib escaped its texts."""
    facts = {k: getattr(figure, k) for k in ("name", "title", "caption", "alt", "legend")}
    return facts | {"panels": [(title, Markup(svg)) for title, svg in figure.panels]}


def row_command(plan: dict[str, Any], row: Row) -> str:
    """Return the command that makes this row alone: the board's, with its defense and seeds."""
    try:
        parts = shlex.split(plan.get("command", ""))
    except ValueError:
        return plan.get("command", "")
    kept, skip = [], False
    for part in parts:
        if not skip and part.partition("=")[0] not in ("--defense", "--seeds"):
            kept.append(part)
        skip = not skip and part in ("--defense", "--seeds")
    seeds = ",".join(str(s) for s in row.seeds)
    return shlex.join([*kept, "--defense", row.defense, "--seeds", seeds])


def reason(row: Row) -> str:
    """Say why a row is not ranked."""
    if row.trust == "INVALID":
        return f"invalid: failed {', '.join(row.trust_failed) or 'a validity check'}"
    if row.bound_violations:
        return f"invalid: {words.plural(row.bound_violations, 'violation')} of a proved bound"
    if row.failures:
        return f"failed: {row.failures[0]}"
    return "its evaluation by the ranking column has not finished"
