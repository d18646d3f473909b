"""Third parties' files as content: what travels is the file, the modules beside it and the data that it has read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.core import discovery, user_code
from bench.core.errors import UsageError


def included_files(paths: Sequence[str], put: Callable[[bytes], str]) -> dict[str, dict[str, str]]:
    """Store what included files need where workers find it.

    Args:
        paths: of the included files, which this process has imported.
        put: stores a blob and returns its SHA-256.

    Returns:
        Name of each file to path below its folder to SHA-256. Nothing says where the folder is.

    Raises:
        UsageError: a file needs one that is not below its folder.
    """
    found = dict[str, dict[str, str]]()
    for path in map(Path, paths):
        needed, folder = _needed(path.resolve()), path.resolve().parent
        if outside := [file for file in needed if not file.is_relative_to(folder)]:
            raise UsageError(
                f"--include {path}: expected files below {folder.name}/, got {outside[0].name} elsewhere. A worker "
                "gets the files of that folder alone: move it there, or use --engine local."
            )
        found[path.name] = {file.relative_to(folder).as_posix(): put(file.read_bytes()) for file in needed}
    return found


def _needed(path: Path) -> list[Path]:
    """Return an included file, the modules that importing it has loaded, and the data files that it has read."""
    module = discovery.include(path)
    record = user_code.loaded_code(module.__name__, str(path))
    files = {path} if record is None else {path, *record.modules.values(), *record.files}
    return sorted(file.resolve() for file in files)
