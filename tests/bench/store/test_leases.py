"""Who counts as alive: a lease of a process that was killed must not be waited for."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.store.leases import STALE_SECONDS, may_live, process_id
from bench.store.records import Lease
from bench.store.store import Store


def owner_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def start() -> subprocess.Popen[str]:
    code = (
        "import json, time; from bench.store.leases import process_id; "
        "print(json.dumps(process_id()), flush=True); time.sleep(60)"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_killed_process_is_dead_even_before_its_parent_has_reaped_it() -> None:
    with start() as process:
        owner = owner_of(process)
        assert may_live(owner)
        process.kill()
        deadline = time.monotonic() + 10
        while may_live(owner) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.returncode is None  # nobody has asked for it: it is a zombie
        assert not may_live(owner)


def test_a_reused_pid_is_another_process() -> None:
    mine = process_id()
    assert may_live(json.dumps(mine))
    assert not may_live(json.dumps({**mine, "start": 1.0}))


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"space": "pid:[1]"}])
def test_a_process_that_cannot_be_seen_may_live(other: dict[str, str]) -> None:
    assert may_live(json.dumps({**process_id(), "pid": 1, "start": 0.0, **other}))


def test_nothing_lives_from_before_this_host_was_started() -> None:
    assert not may_live(json.dumps({**process_id(), "boot": "another"}))


@pytest.mark.parametrize("owner", [None, "", "{", "[]", '{"host": 1}', '{"host": "a", "pid": "x", "start": 0}', 7])
def test_what_names_no_process_is_nobody(owner: object) -> None:
    assert not may_live(owner)


class Watched:
    """A cell of a holder elsewhere, whose clock may be anything, watched by a process with a clock of its own."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.now = store, 0.0
        self.lease = store.leases.claim("c", "train", {})
        monkeypatch.setattr("bench.store.leases.time.monotonic", lambda: self.now)
        self.change("owner=json_set(owner, '$.host', 'elsewhere')")

    def change(self, what: str) -> None:
        with contextlib.closing(sqlite3.connect(self.store.out / "bench.db")) as db, db:
            db.execute(f"UPDATE cells SET {what}")

    def after(self, seconds: float) -> Lease | None:
        """Try to take the cell so many seconds later, by the watching process's own clock."""
        self.now += seconds
        return self.store.leases.claim("c", "train", {})


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with Store.open(tmp_path, create=True) as store:
        yield Watched(store, monkeypatch)


@pytest.mark.parametrize("clock", [-7200.0, 0.0, 7200.0])
def test_a_dead_holder_elsewhere_is_waited_for_two_minutes_whatever_its_clock_said(
    watched: Watched, clock: float
) -> None:
    watched.change(f"heartbeat={time.time() + clock}")
    assert watched.after(0) is None
    assert watched.after(STALE_SECONDS - 1) is None
    taken = watched.after(2)
    assert taken is not None
    assert taken.generation == 2


@pytest.mark.parametrize("clock", [-7200.0, 7200.0])
def test_a_living_holder_elsewhere_keeps_its_cell_whatever_its_clock_says(watched: Watched, clock: float) -> None:
    for beat in range(10):
        watched.change(f"heartbeat={time.time() + clock + beat}")
        assert watched.after(STALE_SECONDS - 1) is None


def test_a_holder_that_was_stopped_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(tmp_path, create=True) as store, start() as process:
        owner = owner_of(process)
        process.send_signal(signal.SIGSTOP)
        store.leases.claim("c", "train", {})
        with contextlib.closing(sqlite3.connect(tmp_path / "bench.db")) as db, db:
            db.execute("UPDATE cells SET owner=?", (owner,))
        now = [0.0]
        monkeypatch.setattr("bench.store.leases.time.monotonic", lambda: now[0])
        assert store.leases.claim("c", "train", {}) is None
        now[0] += STALE_SECONDS + 1
        assert store.leases.claim("c", "train", {}) is not None
        process.kill()


def test_a_heartbeat_grows_although_the_clock_was_set_back(tmp_path: Path) -> None:
    with Store.open(tmp_path, create=True) as store:
        lease = store.leases.claim("c", "train", {})
        assert lease is not None
        with contextlib.closing(sqlite3.connect(tmp_path / "bench.db")) as db, db:
            db.execute("UPDATE cells SET heartbeat=1e11")
        store.leases.heartbeat(lease)
        with contextlib.closing(sqlite3.connect(tmp_path / "bench.db")) as db:
            assert db.execute("SELECT heartbeat FROM cells").fetchone()[0] > 1e11
