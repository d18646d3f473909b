"""The board as files: CSV, JSON, Markdown, LaTeX, Parquet, RobustBench's model_info, and the manifest.

All come from one `Board`, hold no clock of their own and are replaced whole: same store, same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.core import files
from bench.core.records import Column
from bench.core.stats.seeds import describe_seeds
from bench.reports import robustbench, words
from bench.reports.board import Board, BoardColumn, Cell, Row

_INTEGERS = ("rank", "rank_low", "rank_high", "seeds", "n", "bound_violations", "eval_forwards", "eval_backwards")
_TEXTS = ("defense", "trust", "trust_failed")


def write(board: Board, out: Path) -> None:
    """Write every export of a board under `out`, each file whole or not at all.

    Raises:
        EnvironmentProblem: the folder cannot be written, or the disk is full.
    """
    files.write_text(out / "leaderboard.csv", csv_text(board))
    files.write_text(out / "leaderboard.json", json_text(board))
    files.write_text(out / "leaderboard.md", markdown_text(board))
    files.write_text(out / "leaderboard.tex", latex_text(board))
    files.write_bytes(out / "examples.parquet", parquet_bytes(board.examples))
    if len(board.train_examples):
        files.write_bytes(out / "examples_train.parquet", parquet_bytes(board.train_examples))
    files.write_bytes(out / "leaderboard.parquet", parquet_bytes(leaderboard_frame(board)))
    files.write_text(out / "manifest.json", manifest_text(board))
    for path, text in robustbench.texts(board).items():
        files.write_text(out / path, text)


def names_of(column: BoardColumn) -> list[str]:
    """Return the names that a board column has in leaderboard.csv: itself, and its interval if it is printed there.

    PGD's intervals are left out: its columns are stable names of one number each. All intervals are in the JSON.
    """
    interval = column.evaluation and column.facts.aggregate == "fraction" and not column.evaluation.startswith("pgd")
    return [column.name, *([f"{column.name}_low", f"{column.name}_high"] if interval else [])]


def leaderboard_frame(board: Board) -> pd.DataFrame:
    """Return leaderboard.csv as a DataFrame; missing is NaN or NA, fractions are in [0, 1]."""
    records = [_record(row, board.columns) for row in board.rows]
    names = [name for column in board.columns for name in names_of(column)]
    frame = pd.DataFrame(records, columns=names)
    kinds = {n: "Int64" if n in _INTEGERS else "str" if n in _TEXTS else "float64" for n in names}
    return frame.astype(kinds)


def _record(row: Row, columns: tuple[BoardColumn, ...]) -> dict[str, Any]:
    """Return a row's entries by their names in leaderboard.csv; None where missing."""
    record: dict[str, Any] = {}
    for column in columns:
        if column.evaluation:
            cell = row.cells.get(column.name, Cell(None))
            values = (cell.value, cell.low, cell.high)
        else:
            values = (row.own(column.name), None, None)
        record.update(zip(names_of(column), values, strict=False))
    return record


def csv_text(board: Board) -> str:
    """Return leaderboard.csv: full precision, empty where missing, no cell that a spreadsheet takes for a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(name for column in board.columns for name in names_of(column))
    for row in board.rows:
        writer.writerow(_csv_cell(value) for value in _record(row, board.columns).values())
    return stream.getvalue()


def _csv_cell(value: Any) -> str:
    if isinstance(value, str):
        plain = printable(value)
        return f"'{plain}" if plain.startswith(("=", "+", "-", "@")) else plain
    return "" if value is None else repr(value)


def printable(text: str) -> str:
    """Return a text without control characters."""
    return "".join(c for c in text if c.isprintable())


def json_text(board: Board) -> str:
    """Return leaderboard.json: the CSV's numbers, and for each its interval, n, nulls and the seeds' own values."""
    return _dump(
        {
            "format": 1,
            "suite": board.plan["suite"]["name"],
            "dataset": board.plan["data"]["name"],
            "overrides": board.plan["overrides"],
            "ranking": board.ranking or None,
            "smallest_resolvable_gap": board.resolvable,
            "columns": [_describe(column) for column in board.columns],
            "rows": [_json_row(row, board.columns) for row in board.rows],
            "pairs": [vars(pair) for pair in board.pairs],
            "claims": asdict(board.claims) if board.claims else None,
        }
    )


def _describe(column: BoardColumn) -> dict[str, Any]:
    facts: Column = column.facts
    words_of = {k: getattr(facts, k) for k in ("description", "unit", "aggregate", "direction", "formula", "source")}
    origin = {"evaluation": column.evaluation or None, "example_column": column.example_column or None}
    return {"name": column.name, **words_of, **origin}


def _json_row(row: Row, columns: tuple[BoardColumn, ...]) -> dict[str, Any]:
    cells = {}
    for name, cell in row.cells.items():
        by_seed = {str(seed): value for seed, value in cell.by_seed.items()}
        summary = describe_seeds(list(cell.by_seed.values())) if by_seed else None
        cells[name] = {
            "value": cell.value,
            "low": cell.low,
            "high": cell.high,
            "n": cell.n,
            "nulls": cell.nulls,
            "by_seed": by_seed,
            "seed_sd": summary.sd if summary else None,
            "about": summary.about if summary else None,
        }
    extra = {
        "failures": list(row.failures),
        "missing": list(row.missing),
        "unranked": row.unranked,
        "variance": row.variance,
    }
    return {**_record(row, columns), "seed_list": list(row.seeds), **extra, "cells": cells}


def _dump(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def markdown_text(board: Board) -> str:
    """Return leaderboard.md: the CSV's columns as a table; fractions with 4 decimals, numbers with 6 digits."""
    names = [name for column in board.columns for name in names_of(column)]
    fractions = {n for c in board.columns if c.evaluation and c.facts.aggregate == "fraction" for n in names_of(c)}
    lines = [f"| {' | '.join(names)} |", f"|{'|'.join('---' if n in _TEXTS else '---:' for n in names)}|"]
    for row in board.rows:
        record = _record(row, board.columns)
        lines.append(f"| {' | '.join(_markdown_cell(record[n], n in fractions) for n in names)} |")
    return (
        "\n".join([f"# {_plain(board.plan['suite']['name'])} on {_plain(board.plan['data']['name'])}", "", *lines])
        + "\n"
    )


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", printable(text))


def _markdown_cell(value: Any, fraction: bool) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _plain(value)
    return str(value) if isinstance(value, int) else f"{value:.4f}" if fraction else f"{value:.6g}"


def latex_text(board: Board) -> str:
    """Return leaderboard.tex: a booktabs table of the measured columns, fractions in per cent, for a paper."""
    chosen = [c for c in board.columns if c.evaluation and not c.name.startswith("train_")]
    heads = ["Rank", "Defense", *(_latex(words.label(c.name)) for c in chosen), r"Cost ($\times$)"]
    body = []
    for row in board.rows:
        cost = words.number(row.train_cost) if row.train_cost is not None else "--"
        numbers = [_latex_number(row.cells.get(c.name), c) for c in chosen]
        body.append(" & ".join([_latex_rank(row), _latex(row.defense), *numbers, cost]) + r" \\")
    suite, data = _latex(board.plan["suite"]["name"]), _latex(board.plan["data"]["name"])
    ranked = f", ranked by {_latex(board.ranking)}; ranks are 95\\,\\% ranges" if board.ranking else ""
    caption = f"Suite {suite} on {data}{ranked}. Fractions in \\%. Means over seeds, $\\pm$ sample sd from 3 seeds."
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}.",
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{rl{'r' * (len(chosen) + 1)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "ℓ": r"$\ell$", "₂": "$_2$", "∞": r"$_\infty$",
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in printable(text))


def _latex_rank(row: Row) -> str:
    return "--" if row.rank is None else words.rank_range(row.rank_low, row.rank_high).replace("–", "--")


def _latex_number(cell: Cell | None, column: BoardColumn) -> str:
    if cell is None or cell.value is None:
        return "--"
    sd = describe_seeds(list(cell.by_seed.values())).sd
    fraction = column.facts.aggregate == "fraction"
    show = (lambda v: words.percent(v, cell.n)) if fraction else words.number
    text = show(cell.value) + ("" if sd is None else rf" $\pm$ {show(sd)}")
    return text.replace("−", "$-$")


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a per-example table as Parquet."""
    stream = io.BytesIO()
    repeated = [str(name) for name in table.columns if not pd.api.types.is_float_dtype(table[name].dtype)]
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(arrow, stream, compression="zstd", use_dictionary=repeated)
    return stream.getvalue()


def manifest(board: Board) -> dict[str, Any]:
    """Return what made the board: command, suite, data, environment, and every cell with its key, state and time."""
    plan = board.plan
    kept = ("command", "created", "suite", "overrides", "data", "environment")
    evaluations = {
        key: {k: v for k, v in facts.items() if k not in ("columns", "description")}
        for key, facts in plan["evaluations"].items()
    }
    rows = [facts for row in board.rows for facts in row.facts.values()]
    return {
        "format": 1,
        **{key: plan.get(key) for key in kept},
        "evaluations": evaluations,
        "rows": [_manifest_row(facts) for facts in rows],
        "seconds": {
            "training": sum(f["training"].get("seconds", 0.0) for f in rows),
            "evaluation": sum(i.get("seconds", 0.0) for f in rows for i in f["info"].values()),
        },
    }


def row_manifest(row: Row) -> str:
    """Return a row's entries of manifest.json, one per seed, as text."""
    return _dump([_manifest_row(facts) for facts in row.facts.values()])


def manifest_text(board: Board) -> str:
    """Return manifest.json."""
    return _dump(manifest(board))


def _manifest_row(facts: dict[str, Any]) -> dict[str, Any]:
    kept = ("defense", "base", "version", "seed", "provenance", "hyperparameters", "recipe", "backbone", "train_cell")
    cells = {
        key: {"cell": cell, "status": facts["status"].get(key, "pending"), **facts["info"].get(key, {})}
        for key, cell in facts["evaluations"].items()
    }
    return {**{key: facts.get(key) for key in kept}, "training": facts["training"], "evaluations": cells}


def write_model_info(
    folder: Path, dataset: str, threat_model: str, name: str, clean: float, robust: float | None, eps: float
) -> Path:
    """Write `<folder>/<dataset>/<threat model>/<name>.json` with RobustBench's keys and return its path.

    Args:
        folder: where `model_info` is.
        dataset: name of the data, e.g. "cifar10" or "cifar10-jpeg".
        threat_model: "L2" or "Linf".
        name: the model's name; made safe for a file.
        clean: clean accuracy in [0, 1].
        robust: AutoAttack's robust accuracy in [0, 1]; None: not measured, null in the file.
        eps: the budget on [0, 1] pixels; multiples of 1/255 are written as such.
    """
    path = folder / robustbench.place(dataset, threat_model, name)
    files.write_text(path, _dump(robustbench.model_info(dataset, name, clean, robust, eps)))
    return path
