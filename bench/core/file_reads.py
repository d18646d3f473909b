"""Record which data files third-party code opens, seen by Python's audit hook."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

_CODE: Final = (".py", ".pyc", ".so", ".pyd", ".pth")
LIBRARIES: Final = tuple(
    str(Path(folder).resolve()) + os.sep
    for folder in dict.fromkeys(
        [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        + site.getsitepackages()
        + [site.getusersitepackages()]
    )
)

_recording: list[set[str]] = []
_hooked = False


@contextmanager
def recorded_reads() -> Iterator[set[Path]]:
    """Yield a set that holds, after the block, the data files that code of third parties has opened to read.

    Files of code, files of installed libraries, and what a library's own import opens are left out.
    """
    global _hooked
    if not _hooked:  # once, and only where there is code that is not ours: a hook cannot be removed
        sys.addaudithook(_on_event)
        _hooked = True
    opened, found = set[str](), set[Path]()
    _recording.append(opened)
    try:
        yield found
    finally:
        _recording.remove(opened)
        paths = (Path(name).resolve() for name in opened)
        found.update(path for path in paths if is_data(path) and not str(path).startswith(LIBRARIES))


def is_data(path: Path) -> bool:
    """Tell whether a path is a file, and not one of code."""
    return path.is_file() and path.suffix not in _CODE


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    """Note a file that third-party code opens for reading; what a library's own import opens does not count."""
    if event != "open" or not _recording:
        return
    name, _, flags = arguments
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    if writes or not isinstance(name, str | os.PathLike) or str(name).endswith(_CODE):
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        ours = str(frame.f_globals.get("__name__", "")).startswith("bench.")
        if not ours and not frame.f_code.co_filename.startswith(("<", *LIBRARIES)):
            _recording[-1].add(os.path.abspath(os.fspath(name)))
            return
        if frame.f_code.co_name == "<module>":
            return
        frame = frame.f_back
