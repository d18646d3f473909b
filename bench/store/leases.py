"""Who holds a lease, and whether the holder still lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

STALE_SECONDS = 120.0  # a holder on another host counts as dead after this long without a heartbeat


def process_id() -> dict[str, Any]:
    """Return who this process is."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "start": _start_time(os.getpid())}


def _start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot ("" where /proc is missing): pids are reused.

    "dead" for a zombie: a killed process keeps its pid until its parent has asked for it, which may be never.
    """
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if fields[0] in "ZX" else fields[19]
    return ""


def is_alive(owner: str | None, heartbeat: float | None) -> bool:
    """Tell whether the holder of a lease lives: on this host by its process, elsewhere by its heartbeat."""
    if not owner:
        return False
    who = json.loads(owner)
    if who["host"] != socket.gethostname():
        return time.time() - (heartbeat or 0.0) < STALE_SECONDS
    try:
        os.kill(who["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _start_time(who["pid"]) == who["start"]
