"""Docstrings are plain text with `code` between backticks; escape what reStructuredText would take for markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sphinx.application import Sphinx

_CODE = re.compile(r"(``[^`]+``|`[^`\n]+`)")
_MARKUP = re.compile(r"([*|])|(?<=\w)_(?!\w)")


def escape(line: str) -> str:
    """Return a line of a docstring with `*`, `|` and trailing underscores escaped outside backticks."""
    parts = _CODE.split(line)
    return "".join(part if i % 2 else _MARKUP.sub(r"\\\g<0>", part) for i, part in enumerate(parts))


def escape_lines(lines: Sequence[str]) -> list[str]:
    """Return a docstring's lines escaped, code that spans two lines joined first; indented blocks become literal.

    Args:
        lines: of one docstring.
    """
    joined: list[str] = []
    for line in lines:
        if joined and joined[-1].count("`") % 2 and line.strip():
            joined[-1] = f"{joined[-1].rstrip()} {line.strip()}"
        else:
            joined.append(line)
    return [escape(line) for line in joined]


def process(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Escape the docstring that autodoc has read, before napoleon reads its sections."""
    lines[:] = escape_lines(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True}
