"""Who counts as alive: a lease of a process that was killed must not be waited for."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from bench.store.leases import is_alive, process_id


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
        assert is_alive(owner, None)
        process.kill()
        deadline = time.monotonic() + 10
        while is_alive(owner, None) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.returncode is None  # nobody has asked for it: it is a zombie
        assert not is_alive(owner, None)


def test_a_reused_pid_is_another_process() -> None:
    mine = process_id()
    assert is_alive(json.dumps(mine), None)
    assert not is_alive(json.dumps({**mine, "start": 1.0}), None)


def test_another_host_lives_by_its_heartbeat() -> None:
    other = json.dumps({**process_id(), "host": "elsewhere"})
    assert is_alive(other, time.time() - 60)
    assert not is_alive(other, time.time() - 600)
    assert not is_alive(other, None)
