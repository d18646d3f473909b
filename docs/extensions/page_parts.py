"""Parts of pages that are made when the site is built: commands, entries, columns, and files outside `docs/`.

A page says `<!-- made: NAME -->` where such a part belongs. Links from a page of `docs/` to CONTRIBUTING.md,
CHANGELOG.md and README.md lead to their pages of the site.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import typer
from sphinx.application import Sphinx
from typer.main import get_command

from bench.cli.app import app as command_line
from bench.core import registry
from bench.core.records import Registered

ROOT = Path(__file__).resolve().parents[2]
PAGES: Final = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
_LINK = re.compile(r"\]\((?:\.\./)*((?:docs/)?[\w./-]+)(#[\w-]+)?\)")
_MADE = re.compile(r"<!-- made: ([\w/.]+) -->")


def text(value: object) -> str:
    """Return a value as Markdown text in one line: code stays code; no table, tag or emphasis begins in the rest."""
    parts = re.split(r"(`[^`]+`)", " ".join(str(value).split()))
    return "".join(
        part.replace("|", r"\|") if i % 2 else re.sub(r"([\\<>|*_\[\]`])", r"\\\1", part)
        for i, part in enumerate(parts)
    )


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return the lines of a Markdown table; nothing without rows."""
    lines = [header, ("---",) * len(header), *rows]
    return ["", *(f"| {' | '.join(line)} |" for line in lines), ""] if rows else []


def commands() -> Iterator[str]:
    """Yield the reference of the command line: every command, its arguments and options, as its `--help` has them."""
    yield from _command(get_command(command_line), "bench", None)


def _command(command: typer.core.TyperCommand, name: str, parent: typer.Context | None) -> Iterator[str]:
    context = typer.Context(command, info_name=name, parent=parent)
    if parent is not None:
        yield f"## `{context.command_path}`"
    yield ""
    yield text(command.help or "")
    found = [p.get_help_record(context) for p in command.get_params(context)]
    rows = [(f"`{option}`", text(says)) for option, says in (f for f in found if f) if option != "--help"]
    yield from table(("option", "meaning"), rows)
    for inner in getattr(command, "commands", {}).values():
        yield from _command(inner, inner.name, context)


def entries(kind: str) -> Iterator[str]:
    """Yield one section per entry of a registry: source, version, hyper-parameters, description, columns.

    Args:
        kind: "defenses", "attacks" or "evaluations".
    """
    for entry in getattr(registry, kind):
        yield from _entry(entry)


def _entry(entry: Registered) -> Iterator[str]:
    yield f"## `{entry.name}`"
    yield ""
    yield f"{text(entry.source)}; version {entry.version}."
    yield ""
    yield from _signature(entry)
    columns = getattr(entry, "columns", {})
    yield from table(
        ("column", "meaning", "role"), [(f"`{name}`", text(c.description), text(c.role)) for name, c in columns.items()]
    )


def _signature(entry: Registered) -> Iterator[str]:
    """Yield the function with its docstring; of an attack's evaluation (`pgd_l2`), which has none, the first line."""
    module, name = entry.function.__module__, entry.function.__qualname__
    if hasattr(sys.modules[module], name):
        yield from ("```{eval-rst}", f".. autofunction:: {module}.{name}", "```")
        return
    yield text(entry.description.partition("\n\n")[0])
    defaults = [(f"`{k}`", "required" if v is ... else f"`{v!r}`") for k, v in entry.hyperparameters.items()]
    yield from table(("argument", "default"), defaults)


def made(name: str) -> str:
    """Return the part of that name: `commands`, `defenses`, `attacks`, `evaluations`, or a file of the checkout."""
    if name == "commands":
        return "\n".join(commands())
    if name in ("defenses", "attacks", "evaluations"):
        return "\n".join(entries(name))
    return (ROOT / name).read_text(encoding="utf-8")


def site_link(found: re.Match[str]) -> str:
    """Return a link of a file of the checkout as a link of the site."""
    target, anchor = found[1], found[2] or ""
    return f"]({PAGES.get(target, target.removeprefix('docs/'))}{anchor})"


def read(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the made parts into a page that is read, and turn its links."""
    whole = _MADE.sub(lambda m: made(m[1]), source[0])
    if whole != source[0] and page in ("contributing", "changelog"):
        whole = _LINK.sub(site_link, whole)
    for file, name in PAGES.items():
        whole = whole.replace(f"](../{file}", f"]({name}").replace(f"](../../{file}", f"](../{name}")
    source[0] = whole


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
