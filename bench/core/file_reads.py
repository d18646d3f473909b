"""Record which data files third-party code reads or names: by Python's audit hook, and by the values of its calls.

The hook sees what Python itself opens, in every thread. Libraries that open files in C++ or Rust (safetensors,
pyarrow, image readers) raise no event: their files are found as the paths that third parties' code passes to a
function, gets from one, or holds in a variable when one of its own functions or modules ends.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import FrameType
from typing import Final
from urllib.parse import unquote

_CODE: Final = (".py", ".pyc", ".so", ".pyd")
_METADATA: Final = (".dist-info", ".egg-info")
_DEVICES: Final = ("/proc/", "/sys/", "/dev/")
_LONGEST_PATH: Final = 1024
_MOST_ITEMS: Final = 1000  # of a list that is looked through for paths
LIBRARIES: Final = tuple(
    str(Path(folder).resolve()) + os.sep
    for folder in dict.fromkeys(
        [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
        + site.getsitepackages()
        + [site.getusersitepackages()]
    )
)


@dataclass
class _Reads:
    """What one block has opened, written and named, as absolute paths; `folder` is that of the code's own files."""

    folder: Path | None
    thread: int = field(default_factory=threading.get_ident)
    opened: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)


_recording: list[_Reads] = []
_hooked = False


@contextmanager
def recorded_reads(folder: Path | None = None) -> Iterator[set[Path]]:
    """Yield a set that holds, after the block, the data files that code of third parties has read or named.

    Files of code, files of installed libraries, what a library's own import opens, what is opened to be written, and
    the system's files in /proc, /sys and /dev are left out.

    Args:
        folder: where files count that a thread reads without a function of third parties in its stack; None: anywhere.
    """
    global _hooked
    if not _hooked:  # once, and only where there is code that is not ours: a hook cannot be removed
        sys.addaudithook(_on_event)
        _hooked = True
    reads, found = _Reads(folder), set[Path]()
    _recording.append(reads)
    try:
        with _profiled(lambda frame, event, value: _on_call(reads, frame, event, value)):
            yield found
    finally:
        _recording.remove(reads)
        paths = (Path(name).resolve() for name in reads.opened | (reads.named - reads.written))
        found.update(path for path in paths if is_data(path) and not str(path).startswith(LIBRARIES))


def is_data(path: Path) -> bool:
    """Tell whether a path is a file, and not one of code, of site-packages' search paths, or of the system."""
    if path.suffix in _CODE or str(path).startswith(_DEVICES):
        return False
    if path.parent.name.endswith(_METADATA):  # read when a library looks for plug-ins, and only the first time
        return False
    return not (path.suffix == ".pth" and str(path.parent) + os.sep in LIBRARIES) and _is_file(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def _profiled(function: Callable[[FrameType, str, object], None]) -> Iterator[None]:
    """Call a profile function in this thread and in those that start in the block; restore the previous ones."""
    before, before_threads = sys.getprofile(), threading.getprofile()
    sys.setprofile(function)
    threading.setprofile(function)
    try:
        yield
    finally:
        sys.setprofile(before)
        threading.setprofile(before_threads)  # type: ignore[arg-type]  # None ends it


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    """Note a file that third-party code opens; what a library's own import opens does not count."""
    if event not in ("open", "sqlite3.connect") or not _recording:
        return
    name, reads = _path_text(arguments[0]), _recording[-1]
    if name is None or name.endswith(_CODE):
        return
    if event == "sqlite3.connect" and name.startswith("file:"):
        name = unquote(name.removeprefix("file:").partition("?")[0])
    path = os.path.abspath(name)
    if event == "open" and isinstance(flags := arguments[2], int) and flags & (os.O_WRONLY | os.O_RDWR):
        reads.written.add(path)
    elif _is_third_partys(sys._getframe(1), reads, path):
        reads.opened.add(path)


def _is_third_partys(frame: FrameType | None, reads: _Reads, path: str) -> bool:
    """Tell whether code of third parties is in the stack, or it is another thread's that reads their own files."""
    ours = threading.get_ident() == reads.thread
    while frame is not None:
        if _is_users(frame):
            return True
        if frame.f_code.co_name == "<module>":
            return False
        ours, frame = ours or _is_ours(frame), frame.f_back
    if ours:
        return False
    return reads.folder is None or Path(path).resolve().is_relative_to(reads.folder)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("bench.")


def _is_users(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(("<", *LIBRARIES)) and not _is_ours(frame)


def _on_call(reads: _Reads, frame: FrameType, event: str, value: object) -> None:
    """Note paths in what third-party code passes to a Python function, gets from it, and holds when it returns."""
    if event == "return" and _is_users(frame):
        _note_paths(reads, [value, *list(frame.f_locals.values())])
    elif event in ("call", "return") and frame.f_back is not None and _is_users(frame.f_back):
        _note_paths(reads, list(frame.f_locals.values()) if event == "call" else [value])


def _note_paths(reads: _Reads, values: Iterable[object]) -> None:
    """Note paths among values and among the items of lists, tuples, sets and dictionaries of them."""
    for value in values:
        kind = type(value)
        items: Iterable[object] = (value,)
        if kind in (list, tuple, set, frozenset) and len(value) <= _MOST_ITEMS:  # type: ignore[arg-type]
            items = tuple(value)  # type: ignore[arg-type]
        elif kind is dict and len(value) <= _MOST_ITEMS:  # type: ignore[arg-type]
            items = tuple(value.values())  # type: ignore[attr-defined]
        for item in items:
            text = _path_text(item)
            if text and len(text) < _LONGEST_PATH and "." in text and text.isprintable():
                reads.named.add(os.path.abspath(text))


def _path_text(value: object) -> str | None:
    """Return a path as text, None for what is none, e.g. a file descriptor.

    A path that is seen while pathlib builds it (Python 3.12 and newer) has no text yet, and somebody's own class of
    paths may raise anything.
    """
    if isinstance(value, str | bytes | PurePath):
        with suppress(Exception):
            return os.fsdecode(value)
    return None
