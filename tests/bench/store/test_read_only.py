"""Commands that only read work on a folder that cannot be written: report elsewhere, compare, load, pack, status."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bench
from bench.core.errors import MachineError
from bench.packs.pack import pack
from bench.reports import write as write_reports
from bench.reports.board.compare import compare
from bench.store.folder_status import folder_status
from tests.bench.store.access import without_rights, without_write_access
from tests.reports.fabricate import make_plan, make_store


@pytest.mark.skipif(os.name != "posix", reason="needs users")
def test_every_reader_works_without_write_access(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    make_store(out, make_plan(), n=20, chunk=10)
    first, second, *_ = [row.defense for row in write_reports(out).rows]
    page = (out / "leaderboard.html").read_bytes()

    def read() -> None:
        board = write_reports(out, to=elsewhere)
        assert compare(out, first, second)
        assert len(bench.load_results(out).leaderboard) == len(board.rows)
        pack(out, elsewhere / "pack", board=False)
        assert folder_status(out).counts["failed"] == 0
        with pytest.raises(MachineError, match="expected to write here, got Permission denied"):
            write_reports(out)

    with without_write_access(out):
        without_rights(read)
    assert (elsewhere / "leaderboard.html").read_bytes() == page
    assert (out / "leaderboard.html").read_bytes() == page
    assert (elsewhere / "pack" / "store.zip").is_file()
