"""Write every export of a board into its result folder."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.core import files
from bench.reports.board.model import Board
from bench.reports.exports import robustbench
from bench.reports.exports.csv import csv_text
from bench.reports.exports.json import json_text
from bench.reports.exports.latex import latex_text
from bench.reports.exports.leaderboard import leaderboard_frame
from bench.reports.exports.manifest import manifest_text
from bench.reports.exports.markdown import markdown_text


def write_exports(board: Board, out: Path) -> None:
    """Write every export of a board under `out`, each file whole or not at all.

    Raises:
        MachineError: the folder cannot be written, or the disk is full.
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


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a per-example table as Parquet."""
    stream = io.BytesIO()
    repeated = [str(name) for name in table.columns if not pd.api.types.is_float_dtype(table[name].dtype)]
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(arrow, stream, compression="zstd", use_dictionary=repeated)
    return stream.getvalue()
