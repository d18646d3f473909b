"""The leaderboard page: one self-contained HTML file, no network, safe with hostile names, always the same bytes."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import fields
from importlib import resources
from typing import Final

import jinja2
from markupsafe import Markup

from bench.reports import formatting
from bench.reports.board.model import Board
from bench.reports.html import docstrings, filters, packed, ranking_table
from bench.reports.html.page_model import page_model

STYLES: Final = ("page.css", "board.css", "figures.css")
SCRIPTS: Final = ("packed.js", "page.js", "images.js")


def render(board: Board) -> str:
    """Return the whole of `leaderboard.html`.

    The page holds all that it shows: CSS and JavaScript inline (the script allowed by its hash alone, in the page's
    Content-Security-Policy), figures as SVG, images and downloads as data. It works without JavaScript, from disk,
    off-line; names and descriptions are escaped wherever they stand. On a board of more than `packed.INLINE` rows the
    details of a row, the pairs, the images of pairs and the downloads are held compressed, and need JavaScript.
    """
    script, model = "".join(map(template_text, SCRIPTS)), page_model(board)
    context = {field.name: getattr(model, field.name) for field in fields(model)}
    frame = {"css": Markup("".join(map(template_text, STYLES))), "script": Markup(script), "csp": policy(script)}
    return environment().get_template("page.html").render(context | frame)


def policy(script: str) -> str:
    """Return the Content-Security-Policy: nothing from anywhere, our own script by its hash, images as data.

    Args:
        script: the page's JavaScript.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def environment() -> jinja2.Environment:
    """Return what renders our templates: everything is escaped, a name that is not known is an error."""
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(template_text),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    functions = (
        *(formatting.number, formatting.duration, formatting.count, formatting.moment, formatting.spelled),
        *(
            formatting.points,
            formatting.p_value,
            formatting.plural,
            formatting.show,
            formatting.numeric,
            formatting.norm_symbol,
        ),
        *(filters.href, filters.breakable, filters.spoken, filters.audit_words, docstrings.blocks, docstrings.code),
        *(ranking_table.tip, ranking_table.unit, packed.packed),
    )
    made.filters |= {f.__name__: f for f in functions}
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "ensure_ascii": False}
    return made


def template_text(name: str) -> str:
    """Return the text of a file of the templates' folder.

    Args:
        name: of the file.
    """
    return resources.files("bench.reports.html").joinpath("templates", name).read_text("utf-8")
