"""Folders without write access, as a process without root's special rights sees them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_VERSION = 0x20080522  # of Linux's capability interface


@contextlib.contextmanager
def without_write_access(folder: Path) -> Iterator[None]:
    """Take the write permission of a folder and the files in it inside the block."""
    paths = [folder, *folder.iterdir()]
    modes = {path: path.stat().st_mode for path in paths}
    for path in paths:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def without_rights(work: Callable[[], object]) -> None:
    """Do something in a child without the right to ignore permissions, which root has; its failure is this test's."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _drop_capabilities()
            work()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def _drop_capabilities() -> None:
    if not sys.platform.startswith("linux"):
        return
    header, data = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, data) == 0
