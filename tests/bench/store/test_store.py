"""The store: nothing acknowledged is lost, nobody commits late, damage is named."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.core.errors import IntegrityError, MachineError, StoreError
from bench.store import database, seals
from bench.store.packed_chunk import pack_chunk
from bench.store.plan_record import DataRecord, EnvironmentRecord, PlanRecord, RunRecord, SplitRecord, SuiteRecord
from bench.store.records import LeaseLost
from bench.store.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "out", create=True) as s:
        yield s


def table(n=3, start=0):
    return pd.DataFrame({"index": np.arange(start, start + n), "value": np.linspace(0, 1, n), "by": ["", "a", "b"][:n]})


def plan(*defenses, **overrides):
    """Return the record of a plan of these defenses, seed 0, without evaluations."""
    part = SplitRecord(n=1, total=1, fingerprint="f")
    version = dict.fromkeys(("bench", "python", "torch", "platform", "device", "device_name"), "x")
    suite = {"name": "s", "dataset": "digits", "backbone": "b", "seeds": (0,), "threat": None, "recipe": {}}
    empty = {"description": "", "source": "", "version": 1, "hyperparameters": {}, "recipe": {}, "backbone": "b"}
    return PlanRecord(
        command="bench run",
        created="2026-01-02T03:04:05+00:00",
        suite=SuiteRecord(**suite, defenses=()),
        overrides=overrides,
        data=DataRecord(name="d", original=True, layout="x", classes=(), shape=(1, 8, 8), train=part, test=part),
        environment=EnvironmentRecord(**version),
        evaluations={},
        rows=tuple(RunRecord(defense=d, base=d, seed=0, provenance="", train_cell=d, **empty) for d in defenses),
    )


def change(out, sql, *values):
    """Change the database behind the store's back."""
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
        db.execute(sql, values)


def change_and_seal(out, table, what):
    """Change records as somebody would who also writes their seals."""
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
        db.row_factory = sqlite3.Row
        db.execute(f"UPDATE {table} SET {what}")
        seals.seal(db, table, "true", {})


def test_chunks_come_back_in_order_with_types_and_nan(store):
    lease = store.leases.claim("c", "evaluation", {"a": 1})
    second, first = table(3, 3), table(3)
    first.loc[1, "value"] = np.nan
    store.put_chunk(lease, 1, second, None, {"forwards": 2})
    store.put_chunk(lease, 0, first, {"index": np.arange(2)}, {"forwards": 1})
    pd.testing.assert_frame_equal(store.table("c"), pd.concat([first, second], ignore_index=True))
    assert store.chunk_info("c") == {0: {"forwards": 1}, 1: {"forwards": 2}}
    np.testing.assert_array_equal(store.images("c")["index"], [0, 1])


def test_a_cell_is_held_by_one_worker(store):
    assert store.leases.claim("c", "train", {}) is not None
    with Store.open(store.out) as other:
        assert other.leases.claim("c", "train", {}) is None
        assert f"process {os.getpid()}" in (other.leases.holder("c") or "")


def test_a_done_cell_is_not_given_again_and_a_failed_one_is(store):
    store.finish(store.leases.claim("done", "train", {}), {"wall_seconds": 2.0})
    store.fail(store.leases.claim("failed", "train", {}), "it broke")
    assert store.leases.claim("done", "train", {}) is None
    assert store.cell("done").seconds == 2.0
    assert store.cell("failed").error == "it broke"
    assert store.leases.claim("failed", "train", {}).generation == 2


def test_a_released_cell_keeps_its_chunks(store):
    lease = store.leases.claim("c", "evaluation", {})
    store.put_chunk(lease, 0, table(), None, {})
    store.leases.release(lease)
    assert store.leases.claim("c", "evaluation", {}) is not None
    assert len(store.table("c")) == 3


def test_the_last_chunk_is_stored_with_the_end_of_its_cell(store):
    lease = store.leases.claim("c", "evaluation", {})
    store.put_chunk(lease, 0, table(), None, {"forwards": 1})
    last = pack_chunk(1, table(3, 3), None, {"forwards": 2})
    store.finish(lease, {"wall_seconds": 1.0}, last)
    assert store.cell("c").status == "done"
    assert store.table("c")["index"].tolist() == [0, 1, 2, 3, 4, 5]
    assert store.chunk_info("c") == {0: {"forwards": 1}, 1: {"forwards": 2}}
    late = store.leases.claim("d", "evaluation", {})
    store.leases.release(late)
    with pytest.raises(LeaseLost):
        store.finish(late, {}, last)
    assert store.table("d").empty


def test_a_packed_chunk_that_cannot_be_read_is_refused():
    whole = pack_chunk(0, table(), {"index": np.arange(2)}, {})
    whole.require_readable("c")
    for damaged in (replace(whole, data=whole.data[:-9]), replace(whole, images=b"x")):
        with pytest.raises(IntegrityError, match="cell c: expected chunk 0 that can be read, got"):
            damaged.require_readable("c")


def test_a_worker_that_lost_its_lease_cannot_commit(store):
    late = store.leases.claim("c", "evaluation", {})
    store.leases.release(late)
    store.leases.claim("c", "evaluation", {})
    with pytest.raises(LeaseLost, match="expected to hold generation 1"):
        store.put_chunk(late, 0, table(), None, {})
    with pytest.raises(LeaseLost):
        store.finish(late, {})
    assert store.table("c").empty


def test_the_lease_of_a_dead_process_is_taken_over(store):
    code = (
        "import os, sys\nfrom bench.store.store import Store\n"
        f"s = Store.open({str(store.out)!r})\nassert s.leases.claim('c', 'train', {{}})\nos.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert store.cell("c").status == "running"
    assert store.leases.claim("c", "train", {}).generation == 2


def test_twenty_processes_starting_together_share_the_cells(store):
    """One script forks twenty workers on a folder without a store; every cell is computed by exactly one of them."""
    out = store.out.parent / "fresh"
    code = (
        "import os\nfrom bench.store.store import Store\n"
        "children = []\n"
        "for i in range(20):\n"
        "    pid = os.fork()\n"
        "    if pid:\n        children.append(pid)\n        continue\n"
        f"    s = Store.open({str(out)!r}, create=True)\n"
        "    for c in map(str, range(30)):\n"
        "        lease = s.leases.claim(c, 'train', {})\n"
        "        if lease:\n            s.finish(lease, {'by': i})\n            print(c, flush=True)\n"
        "    os._exit(0)\n"
        "assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert sorted(map(int, done.stdout.split())) == list(range(30))
    with Store.open(out) as shared:
        assert all(shared.cell(str(c)).status == "done" for c in range(30))


def test_what_put_chunk_returned_from_survives_kill_nine(store):
    """A writer is killed at random instants; every chunk that it acknowledged must be there and whole."""
    code = (
        "import numpy as np, pandas as pd\nfrom bench.store.store import Store\n"
        f"s = Store.open({str(store.out)!r})\nlease = s.leases.claim('c', 'evaluation', {{}})\n"
        "n = len(s.chunk_info('c'))\n"
        "while True:\n"
        "    s.put_chunk(lease, n, pd.DataFrame({'index': np.arange(100), 'v': np.full(100, float(n))}), None, {})\n"
        "    print(n, flush=True)\n    n += 1"
    )
    rng = np.random.default_rng(0)
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as writer:
            first = writer.stdout.readline()
            time.sleep(float(rng.uniform(0.0, 0.2)))
            writer.kill()
            said = [int(first), *(int(line) for line in writer.stdout if line.endswith("\n"))]
        stored = store.chunk_info("c")
        assert set(said) <= set(stored)
        values = store.table("c")["v"].to_numpy().reshape(-1, 100)
        np.testing.assert_array_equal(values, np.arange(len(stored))[:, None] * np.ones(100))


def test_the_last_plan_knows_its_cells(store):
    store.plans.put(plan("gradreg"))
    number = store.plans.put(plan("standard", "lcnn", weight=float("nan")))
    store.plans.bind_all([(number, 1, "accuracy", "abc")])
    latest = store.plans.latest()
    assert [(run.label, run.evaluations) for run in latest.rows] == [
        ("standard seed 0", {}),
        ("lcnn seed 0", {"accuracy": "abc"}),
    ]
    assert latest.overrides == {"weight": None}
    assert latest.model_copy(update={"overrides": {}, "rows": ()}) == plan().model_copy(update={"rows": ()})


def test_the_same_command_again_adds_no_plan_and_is_the_last_one(store):
    first, other = plan("standard"), plan("lcnn")
    number, second = store.plans.put(first), store.plans.put(other)
    store.plans.bind_all([(number, 0, "accuracy", "abc")])
    assert store.plans.latest().rows[0].defense == "lcnn"
    size = (store.out / "bench.db").stat().st_size
    for minute in range(20):
        again = first.model_copy(update={"created": f"2026-01-02T03:{minute:02}:00+00:00"})
        assert store.plans.put(again) == number
    assert store.plans.numbers() == [number, second]
    assert store.plans.latest() == again, "its evaluations are bound anew"
    assert store.plans.get(second).rows[0].defense == "lcnn", "each command shows its own plan"
    store.close()
    assert (store.out / "bench.db").stat().st_size <= max(size, 64 << 10)


@pytest.mark.parametrize(
    ("change_of", "message"),
    [
        (
            """'$.format', 1""",
            "expected plan format 2 to 3, got 1, written by an older bench. Use that version, or choose",
        ),
        ("""'$.format', 9""", "expected plan format 2 to 3, got 9, written by a newer bench"),
    ],
)
def test_a_plan_of_another_version_is_refused(store, change_of, message):
    store.plans.put(plan("standard"))
    change_and_seal(store.out, "plans", f"plan=json_set(plan, {change_of})")
    with pytest.raises(StoreError, match=message):
        store.plans.latest()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("plan=json_remove(plan, '$.suite.name')", "suite.name: Field required"),
        ("plan=json_set(plan, '$.rows[0].seed', '0')", "rows.0.seed: Input should be a valid integer"),
        ("plan=json_set(plan, '$.extra', 1)", "extra: Extra inputs are not permitted"),
        ("plan=substr(plan, 1, 100)", "Unterminated string"),
        ("plan='[]'", "Input should be an object"),
    ],
)
def test_a_damaged_plan_is_named_in_one_line(store, sql, message):
    store.plans.put(plan("standard"))
    change_and_seal(store.out, "plans", sql)
    with pytest.raises(IntegrityError, match="expected a sound plan, got") as raised:
        store.plans.latest()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_changed_chunk_is_named(store):
    store.put_chunk(store.leases.claim("c", "evaluation", {}), 0, table(), None, {})
    change(store.out, "UPDATE chunks SET data=zeroblob(length(data))")
    with pytest.raises(IntegrityError, match="chunk 0 of cell c: expected data with SHA-256"):
        store.table("c")


def test_no_store_no_folder(tmp_path):
    with pytest.raises(MachineError, match=r"expected a result folder with bench\.db"):
        Store.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="expected to write here"):
        Store.open(tmp_path / "file", create=True)


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be looked at" * 30, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_store_is_refused(tmp_path, content):
    (tmp_path / "bench.db").write_bytes(content)
    with pytest.raises(StoreError, match="expected"):
        Store.open(tmp_path)


def test_a_truncated_store_is_refused(tmp_path):
    with Store.open(tmp_path, create=True) as whole:
        lease = whole.leases.claim("c", "evaluation", {})
        for i in range(50):
            whole.put_chunk(lease, i, table(), None, {})
    path = tmp_path / "bench.db"
    path.write_bytes(path.read_bytes()[:5000])

    def read():
        with Store.open(tmp_path) as damaged:
            damaged.table("c")

    with pytest.raises(StoreError, match="expected"):
        read()


def test_a_reader_waits_for_the_process_that_is_creating_the_store(tmp_path):
    (tmp_path / "bench.db").touch()  # as SQLite leaves it before the first commit
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(lambda: Store.open(tmp_path).close())
        time.sleep(0.3)
        assert not reader.done()
        Store.open(tmp_path, create=True).close()
        reader.result(timeout=30)


def test_an_empty_file_is_no_store(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.store.database.CREATION_SECONDS", 0.2)
    (tmp_path / "bench.db").touch()
    with pytest.raises(StoreError, match="expected a store of bench"):
        Store.open(tmp_path)


def test_another_database_and_a_newer_store_are_refused(tmp_path):
    change(tmp_path, "CREATE TABLE t (x)")
    with pytest.raises(StoreError, match="got another database"):
        Store.open(tmp_path, create=True)
    newer = tmp_path / "newer"
    Store.open(newer, create=True).close()
    change(newer, "UPDATE meta SET value='99'")
    with pytest.raises(StoreError, match="expected store format 3, got 99, written by a newer bench"):
        Store.open(newer)


def test_an_older_store_is_refused(tmp_path):
    Store.open(tmp_path, create=True).close()
    change(tmp_path, "UPDATE meta SET value='1'")
    with pytest.raises(StoreError, match=r"got 1, written by an older bench.*another --out, or use that version"):
        Store.open(tmp_path, create=True)


def test_an_upgrade_makes_the_next_format(tmp_path, monkeypatch):
    with Store.open(tmp_path, create=True) as old:
        old.finish(old.leases.claim("c", "train", {}), {"wall_seconds": 1.0})
    change(tmp_path, "UPDATE meta SET value='1'")
    ran = []

    def rename(db):
        ran.append(db.in_transaction)
        db.execute("UPDATE cells SET id='renamed'")
        seals.seal(db, "cells", "true", {})

    monkeypatch.setattr(database, "UPGRADES", {1: rename})
    with pytest.raises(StoreError, match="got 1, written by an older bench"):  # there is no way from 2 to 3
        Store.open(tmp_path)
    assert not ran
    monkeypatch.setattr(database, "UPGRADES", {1: rename, 2: lambda db: ran.append(True)})
    with Store.open(tmp_path) as new:
        assert new.cell("renamed").status == "done"
    assert ran == [True, True]
    Store.open(tmp_path).close()
    assert len(ran) == 2


def test_an_upgrade_that_fails_changes_nothing(tmp_path, monkeypatch):
    with Store.open(tmp_path, create=True) as old:
        old.leases.claim("c", "train", {})
    change(tmp_path, "UPDATE meta SET value='2'")

    def fail(db):
        db.execute("DELETE FROM cells")
        raise RuntimeError("half way")

    monkeypatch.setattr(database, "UPGRADES", {2: fail})
    with pytest.raises(RuntimeError, match="half way"):
        Store.open(tmp_path)
    monkeypatch.setattr(database, "UPGRADES", {2: lambda db: None})
    with Store.open(tmp_path) as new:
        assert new.cell("c") is not None


def test_a_network_file_system_is_refused(monkeypatch, tmp_path):
    real = Path.read_text
    mounts = f"server:/x {tmp_path} nfs4 rw 0 0\n/dev/sda / ext4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda p, *a, **k: mounts if str(p) == "/proc/mounts" else real(p, *a, **k))
    with pytest.raises(MachineError, match="network file system"):
        Store.open(tmp_path / "out", create=True)
