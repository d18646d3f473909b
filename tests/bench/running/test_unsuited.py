"""What cannot measure a row's model is no cell of it: neither left, nor missing, nor counted."""

from __future__ import annotations

EVALUATIONS = """
[evaluations.accuracy]
limit = 8
[evaluations.curvature]
limit = 4
[evaluations.smoothed_certificate]
eps = [0.5]
limit = 4
"""


def test_a_run_with_rows_of_both_tracks_ends_complete(cli, write_suite, tmp_path):
    suite, out = write_suite(tmp_path / "both.toml", ["standard", "smoothing"], EVALUATIONS, epochs=1), tmp_path / "out"
    done = cli("run", "--suite", suite, "--out", out, "--train-limit", 100, "--quiet")
    assert done.code == 0, done.err
    status = cli("status", "--out", out).out
    assert status.splitlines()[-1] == "cells: 6, done: 6, running: 0, left: 0, failed: 0"
    assert "is not finished" not in (out / "leaderboard.html").read_text(encoding="utf-8")
