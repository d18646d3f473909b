"""A result folder, or a pack as one for as long as it is needed."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.packs.unpack import is_pack, unpack


@dataclass(frozen=True)
class OpenedResults:
    """Where the parts of a result folder lie.

    Attributes:
        folder: store, weights, audits and challenges.
        exports: the exported board: the folder itself; for a pack, the board that travelled, as it is.
        records: where what is found out about the results is kept: the folder itself; for a pack, which is not
            changed, the folder beside it with "-audit" after its name.
    """

    folder: Path
    exports: Path
    records: Path


def records_folder(path: Path) -> Path:
    """Return where what is found out about a result folder or a pack is kept; a pack itself is never changed."""
    return path.with_name(f"{path.name}-audit") if is_pack(path) else path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[OpenedResults]:
    """Yield a result folder as it is, and a pack unpacked into a temporary folder.

    Args:
        path: a result folder or a pack.

    Yields:
        Where its parts lie.

    Raises:
        IntegrityError, SecurityError: the pack is damaged or hostile.
    """
    if not is_pack(path):
        yield OpenedResults(path, path, path)
        return
    with tempfile.TemporaryDirectory(prefix="bench-pack-") as scratch:
        folder, exports = Path(scratch) / "results", Path(scratch) / "exports"
        unpack(path, folder, board=False, exports=exports)
        yield OpenedResults(folder, exports, records_folder(path))
