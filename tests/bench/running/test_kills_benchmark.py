"""What `python -m benchmarks.kills` compares: what is stored, and every column but times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from bench.running import pipeline
from bench.running.prepare import Options
from bench.training.execution import ExecutionConfig
from benchmarks import kills


def test_a_loss_and_a_difference_are_seen(tmp_path: Path, write_suite: Callable[..., Path]) -> None:
    """The comparison itself: what is stored is listed, one changed flag is named."""
    suite = write_suite(tmp_path / "tiny.toml", ["standard"], "[evaluations.accuracy]\nlimit = 8\n", epochs=1)
    outs = [tmp_path / name for name in ("whole", "killed")]
    for out in outs:
        same_bits = ExecutionConfig(deterministic=True)  # on a GPU too
        pipeline.run(Options(suite=str(suite), out=out, narrow={"train_limit": 60}, quiet=True, execution=same_bits))
    assert kills.differences(*outs) == []
    assert {kind for kind, _ in kills.stored(outs[1])} == {"finished", "chunk", "epoch"}
    assert kills.stored(tmp_path / "nowhere") == frozenset()
    path = outs[1] / "examples.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "clean_correct"] = not table.loc[0, "clean_correct"]
    table.to_parquet(path)
    assert kills.differences(*outs) == ["killed: examples.parquet: clean_correct"]
