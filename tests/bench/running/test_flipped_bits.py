"""One flipped bit in any file of a result folder is no command's internal error, and what counts is never believed."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.store.store import Store

CODES = {0, 3, 5, 6}
EXPORTS = ("leaderboard.", "examples.", "manifest.", "model_info/", "training.", "every_eval_ever/")  # `report` remakes


@pytest.fixture
def out(weakly_attacked: Path, cli: Callable[..., Any], tmp_path: Path) -> Path:
    """A folder with a challenge and an audit beside its store."""
    folder = shutil.copytree(weakly_attacked, tmp_path / "out")
    with Store.open(folder) as store:
        cell = store.plans.latest().rows[0].evaluations["pgd_l2"]
        images, table = store.images(cell), store.table(cell).set_index("index")
    index = np.array([i for i in images["index"] if not table.loc[i, "pgd_l2_0.5_robust"]][:1])
    row = np.flatnonzero(images["index"] == index[0])[-1:]
    np.savez(tmp_path / "a.npz", index=index, x_adv=images["adversarial"][row])
    assert cli("challenge", "--out", folder, "--defense", "standard", tmp_path / "a.npz").code == 0
    assert cli("audit", "--out", folder, "--margin", "0.5", "--risk", "0.3").code in (0, 3, 75)
    with contextlib.closing(sqlite3.connect(folder / "bench.db")) as db:
        db.execute("PRAGMA journal_mode=DELETE")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_one_flipped_bit_is_one_line(out: Path, cli: Callable[..., Any], tmp_path: Path, share: float) -> None:
    paths = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("bench.db-"))
    assert {"audit.json", "bench.db"} <= {path.name for path in paths}
    for path in paths:
        content, name = path.read_bytes(), path.relative_to(out).as_posix()
        place = min(len(content) - 1, int(share * len(content)))
        kept = shutil.copytree(out, tmp_path / "kept")
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        for command in (("status",), ("store", "check"), ("verify",), ("report", "--to", tmp_path / "to")):
            done = cli(*command, "--out", out)
            assert done.code in CODES, f"{command[0]} with {name}: {done.err}"
            assert "internal error" not in done.err, f"{command[0]} with {name}: {done.err}"
            assert "Traceback" not in done.err, f"{command[0]} with {name}"
            if command == ("verify",) and not name.startswith((*EXPORTS, "bench.db")):  # which has bytes without use
                assert done.code == 3, f"{name} is believed"
        shutil.rmtree(out)
        kept.rename(out)
