"""The folder of what can be made again: downloads, pictures that were decoded, what `list` found."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return where downloads go: $BENCH_DATA, else `data` in the user's cache folder (Linux: ~/.cache/bench/data).

    A user without a home, as in a container, has one in the folder for temporary files.
    """
    if named := os.environ.get("BENCH_DATA"):
        return Path(named)
    try:
        return Path(platformdirs.user_cache_path("bench", appauthor=False)) / "data"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"bench-{os.getuid()}" / "data"


def is_ours(path: Path) -> bool:
    """Return whether a file was written by this user: a folder for temporary files is open to others.

    Args:
        path: a file that exists.

    Raises:
        OSError: it cannot be asked.
    """
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()
