"""The command `list`: what the registries, the suites and the data sets hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bench.cli.options import AsJson, Data, Included
from bench.cli.remembered import remembered
from bench.cli.terminal import console, print_json
from bench.core import discovery, registry
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Attack, Defense, Evaluation, Registered
from bench.core.text import one_line

commands = typer.Typer()

Entry = Mapping[str, object]  # name, source, version, hyperparameters, description, and what the kind adds
KINDS = ("defenses", "attacks", "evaluations", "suites", "datasets")


@commands.command("list")
def list_entries(
    what: Annotated[str, typer.Argument(help="defenses, attacks, evaluations, suites or datasets.")],
    as_json: AsJson = False,
    include: Included = None,
    data: Data = None,
) -> None:
    """List what the registry holds."""
    for path in include or ():
        discovery.include(path)
    if what not in KINDS:
        raise UsageError(f"list: expected {', '.join(KINDS)}, got {what!r}. {did_you_mean(what, KINDS)}")
    found = entries(what, data)
    if as_json:
        print_json(found)
    else:
        console().print(table(what, found))


def entries(kind: str, data_dir: Path | None = None) -> list[Entry]:
    """Return the entries of a kind with at least name, source, version, hyperparameters and description.

    Args:
        kind: one of `KINDS`.
        data_dir: where data sets are looked for first.
    """
    if kind == "suites":
        from bench.config import suite_file

        return [*suite_file.suites()]
    if kind == "datasets":
        from bench.data import catalog

        return [{**asdict(a), "version": 1, "hyperparameters": {}} for a in catalog.available(data_dir)]

    def found() -> list[dict[str, object]]:
        return [_record(entry) for entry in getattr(registry, kind)]

    return [*remembered(kind, found)]


def _record(entry: Registered) -> dict[str, object]:
    record: dict[str, object] = {
        "name": entry.name,
        "source": entry.source,
        "version": entry.version,
        "hyperparameters": {k: _plain_default(v) for k, v in entry.hyperparameters.items()},
        "description": entry.description,
    }
    if isinstance(entry, Evaluation):
        record["columns"] = {pattern: asdict(column) for pattern, column in entry.columns.items()}
    if isinstance(entry, Defense):
        record["recipe"] = entry.recipe.settings()
        record |= {"title": entry.title or entry.name, "link": entry.link, "venue": entry.venue, "year": entry.year}
    if isinstance(entry, Attack):
        record["norms"] = list(entry.norms)
    return record


def _plain_default(value: object) -> object:
    """Return a default as plain data: "required" for none, its `repr` for what JSON has no word for."""
    if value is ...:
        return "required"
    if isinstance(value, list | tuple):
        return [_plain_default(v) for v in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)


def _source(record: Entry) -> str:
    """Return where an entry comes from, with the address of its paper where that is known."""
    return " ".join(filter(None, [str(record["source"]), str(record.get("link", ""))]))


def table(kind: str, records: list[Entry]) -> Table:
    """Return the entries as a table for the terminal.

    Args:
        kind: the title.
        records: of `entries`.
    """
    view = Table(title=kind, title_justify="left", header_style="bold")
    view.add_column("name", no_wrap=True)
    view.add_column("what it is")
    view.add_column("source")
    view.add_column("hyper-parameters and defaults")
    for record in records:
        hyperparameters = record["hyperparameters"]
        assert isinstance(hyperparameters, Mapping)
        settings = ", ".join(f"{k}={v}" for k, v in hyperparameters.items())
        first = str(record["description"]).strip().partition("\n")[0]
        what = f"{record['title']}. {first}" if "title" in record else first
        shown = (record["name"], what, _source(record), settings)
        view.add_row(*(Text(one_line(text, 500)) for text in shown))
    return view
