"""What `list` prints: the registries, the suites and the data sets, as records and as a table."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.config import suite_file
from bench.core import registry
from bench.core.records import Registered
from bench.data import catalog as datasets

KINDS = ("defenses", "attacks", "evaluations", "suites", "datasets")


def entries(kind: str, data_dir: Path | None = None) -> list[dict[str, Any]]:
    """Return the entries of a kind as records with at least name, source, version and hyperparameters."""
    if kind == "suites":
        return suite_file.suites()
    if kind == "datasets":
        return [{**asdict(a), "version": 1, "hyperparameters": {}} for a in datasets.available(data_dir)]
    found: list[dict[str, Any]] = []
    for entry in getattr(registry, kind):
        found.append(_record(entry))
    return found


def _record(entry: Registered) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": entry.name,
        "source": entry.source,
        "version": entry.version,
        "hyperparameters": {k: _default(v) for k, v in entry.hyperparameters.items()},
        "description": entry.description,
    }
    if hasattr(entry, "columns"):
        record["columns"] = {pattern: asdict(column) for pattern, column in entry.columns.items()}
    if hasattr(entry, "recipe"):
        record["recipe"] = entry.recipe.settings()
    if hasattr(entry, "norms"):
        record["norms"] = list(entry.norms)
    return record


def _default(value: Any) -> Any:
    if value is ...:
        return "required"
    if isinstance(value, list | tuple):
        return [_default(v) for v in value]
    return value if isinstance(value, str | int | float | bool | type(None)) else repr(value)


def table(kind: str, records: list[dict[str, Any]]) -> Table:
    """Return the entries as a table for the terminal."""
    view = Table(title=kind, title_justify="left", header_style="bold")
    view.add_column("name", no_wrap=True)
    view.add_column("what it is")
    view.add_column("source")
    view.add_column("hyper-parameters and defaults")
    for r in records:
        settings = ", ".join(f"{k}={v}" for k, v in r.get("hyperparameters", {}).items())
        first = str(r.get("description", "")).strip().partition("\n")[0]
        view.add_row(r["name"], first, str(r.get("source", "")), settings)
    return view
