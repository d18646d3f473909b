"""leaderboard.parquet, and the per-example tables."""

from __future__ import annotations

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bench.reports.board.model import Board
from bench.reports.exports.leaderboard import leaderboard_frame
from bench.reports.exports.registry import export


@export("leaderboard.parquet", media="application/vnd.apache.parquet", label="Parquet", order=50)
def leaderboard_parquet(board: Board) -> bytes:
    """Return leaderboard.parquet: the columns of leaderboard.csv."""
    return parquet_bytes(leaderboard_frame(board))


@export("examples.parquet")
def examples_parquet(board: Board) -> bytes:
    """Return examples.parquet: the joined per-example table, from which every number can be recomputed."""
    return parquet_bytes(board.examples)


@export("examples_train.parquet")
def train_examples_parquet(board: Board) -> bytes | None:
    """Return examples_train.parquet, the same on training images; None where nothing was measured on them."""
    return parquet_bytes(board.train_examples) if len(board.train_examples) else None


def parquet_bytes(table: pd.DataFrame) -> bytes:
    """Return a table as Parquet.

    Args:
        table: any.
    """
    stream = io.BytesIO()
    repeated = [str(name) for name in table.columns if not pd.api.types.is_float_dtype(table[name].dtype)]
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    pq.write_table(arrow, stream, compression="zstd", use_dictionary=repeated)
    return stream.getvalue()
