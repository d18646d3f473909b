"""Files that are there whole or not at all: atomic writes, safe names, and where a store may live."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.core.errors import MachineError, UsageError
from bench.core.hashing import sha256_of

_NETWORK_FILE_SYSTEMS = frozenset(
    "nfs nfs4 cifs smb3 smbfs fuse.sshfs afs lustre beegfs gpfs fuse.s3fs fuse.gcsfuse ceph fuse.ceph".split()  # noqa: SIM905
)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` durably, on failure it is removed.

    Raises:
        MachineError: the folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise MachineError(_cannot_write(path, error)) from error
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise MachineError(_cannot_write(path, error)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8, newlines as they are) atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def _cannot_write(path: Path, error: OSError) -> str:
    return (
        f"{path}: expected to write here, got {error.strerror or error}. "
        "Check free space and permissions, or choose another --out."
    )


def make_folder(path: Path) -> None:
    """Create a folder and its parents.

    Raises:
        MachineError: a file of that name exists, or there is no right to create it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(_cannot_write(path, error)) from error


def require_local(path: Path) -> None:
    """Refuse network file systems, on which SQLite's locks are not reliable.

    Raises:
        MachineError: `path` lies on one.
    """
    mounts = Path("/proc/mounts")
    if not mounts.is_file():
        return
    target = os.path.realpath(path)
    best, kind = "", ""
    for line in mounts.read_text().splitlines():
        point, filesystem = line.split()[1:3]
        point = point.replace("\\040", " ")
        if (target == point or target.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, filesystem
    if kind in _NETWORK_FILE_SYSTEMS:
        raise MachineError(
            f"{path}: expected a local disk, got a network file system ({kind} at {best}), on which locks are not "
            "reliable. Choose a local --out and copy the folder when the run is done."
        )


def safe_name(name: str) -> str:
    """Return a file name for any string: itself if harmless, else a cleaned start and a hash."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        return name
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:40]
    return f"{clean or 'row'}-{sha256_of(name.encode())[:8]}"


def require_file(path: str | Path, what: str) -> Path:
    """Return the path if it is a file.

    Raises:
        UsageError: it is not.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{what}: expected a file, got {str(path)!r}, which is none. Check the path.")
    return path
