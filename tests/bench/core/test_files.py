"""Files are there whole or not at all, whatever call fails, and nothing is left beside them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from bench.core import files
from bench.core.errors import MachineError


class Failing:
    """Make the k-th of the calls that change the disk fail as on a full one; the others are carried out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, k: int) -> None:
        self.left, self.made = k, 0
        for name in ("open", "fsync", "replace"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        monkeypatch.setattr(Path, "write_bytes", self._counted(Path.write_bytes))
        monkeypatch.setattr(Path, "replace", self._counted(Path.replace))

    def _counted(self, call):  # type: ignore[no-untyped-def]
        def counted(*arguments, **named):  # type: ignore[no-untyped-def]
            self.made += 1
            if self.made == self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*arguments, **named)

        return counted


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.endswith(".tmp")]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "f.bin"
    path.write_bytes(b"old")
    yield path
    assert leftovers(tmp_path) == []


def caught(path: Path) -> MachineError | None:
    try:
        files.write_bytes(path, b"new")
    except MachineError as error:
        return error
    return None


def test_a_disk_full_at_any_call_leaves_the_old_file_or_the_new_one(target: Path) -> None:
    failures = 0
    for k in range(1, 20):
        with pytest.MonkeyPatch.context() as patch:
            calls = Failing(patch, k)
            error = caught(target)
            if calls.made < k:
                break
        failures += 1
        assert str(error).startswith(f"{target}: expected to write here, got No space left on device. Check")
        assert target.read_bytes() in (b"old", b"new")
        assert leftovers(target.parent) == []
    assert error is None
    assert failures >= 5  # temporary file, its content, its fsync, the rename, the folder's opening and fsync
    assert target.read_bytes() == b"new"


def test_the_folder_is_made_durable_after_the_rename(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    synced, replaced = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        synced(handle)

    def replace(path: Path, to: Path) -> Path:
        order.append("rename")
        return replaced(path, to)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    files.write_bytes(target, b"new")
    assert order == ["file", "rename", "folder"]


def _wait_inside(path: Path, ready: Connection) -> None:
    with files.atomic(path) as temporary:
        temporary.write_bytes(b"half")
        ready.send(temporary.name)
        signal.pause()


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(target: Path) -> None:
    here, there = multiprocessing.Pipe()
    writer = multiprocessing.get_context("fork").Process(target=_wait_inside, args=(target, there))
    writer.start()
    name = here.recv()
    files.write_bytes(target, b"by another")
    assert leftovers(target.parent) == [name]
    writer.kill()
    writer.join()
    files.write_bytes(target, b"new")
    assert leftovers(target.parent) == []
    assert target.read_bytes() == b"new"


def test_an_error_in_the_block_is_passed_on(target: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.atomic(target):
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"


def test_new_files_have_the_mode_that_the_process_gives(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from bench.core import files; os.umask(0o027); "
        f"files.write_text(Path({str(tmp_path / 'f')!r}), 'x')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    files.remove(tmp_path / "absent")
    with pytest.raises(MachineError, match="expected to remove this file, got"):
        files.remove(tmp_path)


@pytest.mark.parametrize("kind", ["9p", "fuse.rclone", "fuse.glusterfs", "nfs4", "fuse.mergerfs", "ext4"])
def test_network_mounts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = tmp_path / "a b"
    real, mounts = Path.read_text, f"/dev/sda / ext4 rw 0 0\nremote: {tmp_path}/a\\040b {kind} rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda p, *a, **k: mounts if str(p) == "/proc/mounts" else real(p, *a, **k))
    if kind not in ("fuse.mergerfs", "ext4"):
        with pytest.raises(MachineError, match=f"expected a local disk, got a network file system .{kind} at"):
            files.require_local(folder / "results")
    else:
        files.require_local(folder / "results")


def test_the_first_of_several_writers_of_one_name_wins_and_the_others_are_told(tmp_path: Path) -> None:
    path, begin = tmp_path / "f.bin", threading.Barrier(8)
    won = list[bytes]()

    def write(data: bytes) -> None:
        begin.wait()
        if files.write_new(path, data):
            won.append(data)

    writers = [threading.Thread(target=write, args=(bytes([k]) * 100_000,)) for k in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert won == [path.read_bytes()]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_a_file_that_is_there_stays(code: int, tmp_path: Path, monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "f.bin"
    assert files.write_new(path, b"first")
    assert not files.write_new(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == [path.name]


def test_a_full_disk_is_no_file_that_is_there(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(MachineError, match="expected to write here, got No space left on device"):
        files.write_new(tmp_path / "f.bin", b"first")
    assert os.listdir(tmp_path) == []
