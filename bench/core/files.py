"""Files that are there whole or not at all: atomic writes, safe names, and where a store may live."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from bench.core.errors import MachineError, UsageError
from bench.core.hashing import sha256_of

# Network and cluster file systems, and folders that a virtual machine or container shares with its host.
_NETWORK_KINDS = """
    nfs nfs4 cifs smb3 smbfs afs lustre beegfs gpfs ceph 9p glusterfs ocfs2 gfs2 orangefs pvfs2 panfs wekafs coda davfs
    ncpfs drvfs vboxsf vmhgfs prl_fs
    fuse.sshfs fuse.s3fs fuse.gcsfuse fuse.ceph fuse.rclone fuse.glusterfs fuse.goofys fuse.blobfuse fuse.blobfuse2
    fuse.juicefs fuse.mfs fuse.moosefs fuse.davfs fuse.hdfs fuse.grpcfuse fuse.osxfs fuse.vmhgfs-fuse fuse.mount-s3
    fuse.seaweedfs fuse.smbnetfs fuse.curlftpfs
"""
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # what systems without hard links say
_NETWORK_FILE_SYSTEMS: Final = frozenset(_NETWORK_KINDS.split())


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` durably, on failure it is removed.

    What a killed process has left of an earlier attempt on the same path is removed first: the system releases the
    lock on a temporary file when its writer dies.

    Raises:
        MachineError: the folder cannot be written, or the disk is full.
    """
    with _placed(path, lambda temporary: temporary.replace(path)) as temporary:
        yield temporary


@contextlib.contextmanager
def _placed(path: Path, place: Callable[[Path], object]) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is placed durably on success and removed in any case.

    Args:
        path: what comes of it.
        place: gives the written file its name.

    Raises:
        MachineError: the folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        handle, temporary = _locked_temporary(path)
    except OSError as error:
        raise MachineError(_cannot_write(path, error)) from error
    try:
        yield temporary
        os.fsync(handle)
        place(temporary)
        _sync_folder(path.parent)
    except OSError as error:
        raise MachineError(_cannot_write(path, error)) from error
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # a file that cannot be removed now is removed by the next attempt
            temporary.unlink(missing_ok=True)


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """Return an open, locked file beside `path`, with the mode that the process gives new files, and its path."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            mine = _lock(handle)
        except OSError:  # a file system without locks: nothing is taken for abandoned there either
            mine = True
        if mine and temporary.exists():
            return handle, temporary
        os.close(handle)  # another process took it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` that no living process writes."""
    for name in os.listdir(path.parent):
        if not (name.startswith(f".{path.name}.") and name.endswith(".tmp")):
            continue
        left = path.with_name(name)
        with contextlib.suppress(OSError):
            handle = os.open(left, os.O_RDWR)
            try:
                if _lock(handle):
                    left.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed or its process ends; False if another process has locked it."""
    if sys.platform == "win32":
        return True  # an open file cannot be removed there
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make a renamed file's name durable."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Remove a file if it is there.

    Raises:
        MachineError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(
            f"{path}: expected to remove this file, got {error.strerror or error}. Check permissions, or remove it."
        ) from error


def set_aside(path: Path) -> Path:
    """Put ".damaged" behind a file's name; an older file of that name is replaced.

    Returns:
        Its new path.

    Raises:
        MachineError: it cannot be renamed.
    """
    target = path.with_name(f"{path.name}.damaged")
    try:
        path.replace(target)
    except OSError as error:
        raise MachineError(
            f"{path}: expected to rename this damaged file, got {error.strerror or error}. Check permissions, or "
            "remove it."
        ) from error
    return target


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8, newlines as they are, "?" for a lone surrogate) atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode(errors="replace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_new(path: Path, data: bytes) -> bool:
    """Write a binary file atomically unless there is one of its name, which stays.

    Of several processes that write one name at the same time exactly one does, also on a network file system. Where the
    file system has no hard links the last one may win, if all of them have looked before the first has written.

    Returns:
        Whether it was written.
    """
    written = True

    def place(temporary: Path) -> None:
        nonlocal written
        try:
            os.link(temporary, path)
        except FileExistsError:
            written = False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            written = not path.exists()
            if written:
                temporary.replace(path)

    with _placed(path, place) as temporary:
        temporary.write_bytes(data)
    return written


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
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)
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
