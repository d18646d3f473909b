"""A pack back into a result folder: nothing is believed that its SHA-256 does not prove, nothing lands elsewhere.

Only the store and the weights are taken from the pack; the board is rebuilt from the store, so that no page of
somebody else's making is put where one of ours is expected.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.core import files, hashing
from bench.core.errors import IntegrityError, MachineError, SecurityError, UsageError
from bench.core.ticks import tick
from bench.packs.foreign import check_foreign, mark_left_out
from bench.packs.pack import ARCHIVES, EXPORTS, FORMAT, LISTING, is_part
from bench.reports import write as write_reports
from bench.store.audit_record import FILE_NAME as AUDITS
from bench.store.audit_record import load_audits
from bench.store.challenge_record import FOLDER, load_challenges
from bench.store.database import NAME
from bench.store.status import RunStatus, run_status

MOST = 4_000_000_000  # bytes that a pack may unfold to
MOST_RATIO = 200  # of an archive's bytes unfolded to packed, beyond `SLACK`; tables and weights stay far below
SLACK = 20_000_000
MOST_WINDOW = 64 << 20  # of LZMA; `pack` takes 8 MiB
_WEIGHTS = re.compile(r"weights/[0-9a-f]{64}\.safetensors")
_CHALLENGE = re.compile(rf"{FOLDER}/[0-9a-f]{{64}}\.safetensors")
_INFO = re.compile(r"model_info(/[A-Za-z0-9][A-Za-z0-9._-]{0,63}){3}")
_BLOCK = 1 << 20
_END = struct.Struct("<4s4H2LH")  # the record that ends a zip archive
_LOCAL = struct.Struct("<L5H3L2H")  # what is before a file's name in a zip archive
_WINDOW_AT = 5  # bytes of version, length and settings before the window's size in an LZMA member
_FEW = 100  # entries that may be there although they are not listed: their names are looked at


class _Piece(BaseModel):
    """A file's or a member's size and hash."""

    model_config = ConfigDict(strict=True, frozen=True)
    bytes: int = Field(ge=0, le=MOST)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Archive(_Piece):
    parts: list[str] = Field(min_length=1)
    members: dict[str, _Piece]


class _Listing(BaseModel):
    """pack.json, as far as unpacking needs it."""

    model_config = ConfigDict(strict=True, frozen=True)
    format: int
    files: dict[str, _Piece]
    archives: dict[str, _Archive]


@dataclass(frozen=True)
class Unpacked:
    """What was unpacked: where, how far the run is, and how many models' weights are there and are not."""

    out: Path
    status: RunStatus
    weights: int
    missing: int


def is_pack(folder: Path) -> bool:
    """Tell whether a folder is a pack, and no result folder."""
    return (folder / LISTING).is_file() and not (folder / NAME).exists()


def unpack(folder: str | Path, out: str | Path, *, board: bool = True, exports: Path | None = None) -> Unpacked:
    """Check a pack and make a result folder of it, on which `run` and `report` go on.

    Args:
        folder: the pack.
        out: the result folder to make: new, or empty.
        board: also rebuild the board.
        exports: where the board that travelled is put, as it is; None: nowhere.

    Returns:
        The folder, how far the run is, and how many models' weights are there and are not.

    Raises:
        UsageError: `out` holds something already.
        MachineError: `folder` is none, or `out` cannot be written.
        IntegrityError: a file is missing, damaged or not as listed.
        SecurityError: a name that no pack of ours has, e.g. one that leads outside; a store that holds code.
    """
    folder, out = Path(folder), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: expected a new or an empty folder, got one with files. Choose another --out.")
    listing = _checked_listing(folder)
    files.make_folder(out)
    with tempfile.TemporaryDirectory(dir=out, prefix=".unpacking-") as scratch:
        found = Path(scratch)
        for place, (name, archive) in enumerate(listing.archives.items(), start=1):
            tick("unpacking archives", place, len(listing.archives))
            _extract(folder, found if name != "board.zip" else exports, name, archive)
        check_foreign(found)
        load_audits(found)
        load_challenges(found)
        weights = {p.stem for p in (found / "weights").glob("*.safetensors")}
        missing = mark_left_out(found, weights)
        if board:
            write_reports(found)  # a store that cannot be read is found out before anything is put in place
        for path in sorted(found.iterdir(), key=lambda p: p.name == NAME):  # the store comes last
            path.replace(out / path.name)
    return Unpacked(out, run_status(out), len(weights), missing)


def check_pack(folder: Path) -> None:
    """Check that the files of a pack are those that its list names, without unpacking them.

    Args:
        folder: the pack.

    Raises:
        MachineError: `folder` is none.
        IntegrityError: a file is missing, damaged or not as listed.
        SecurityError: a name that no pack of ours has, or a link.
    """
    _checked_listing(folder)


def _checked_listing(folder: Path) -> _Listing:
    """Return the list of a pack, after every name and every file's SHA-256 was checked."""
    listing = _read_listing(folder)
    _check_names(listing)
    for place, (name, piece) in enumerate(listing.files.items(), start=1):
        tick("checking files", place, len(listing.files))
        _check_file(folder, name, piece)
    return listing


def _read_listing(folder: Path) -> _Listing:
    if not folder.is_dir():
        raise MachineError(f"{folder}: expected a folder with a pack, found none. Check the path.")
    path = folder / LISTING
    if not path.is_file():
        raise IntegrityError(f"{path}: expected the list of the pack's files, found none. Fetch the pack again.")
    if path.stat().st_size > _BLOCK:
        raise IntegrityError(f"{path}: expected at most 1 MiB, got {path.stat().st_size} bytes. Fetch the pack again.")
    try:
        listing = _Listing.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its text"
        raise IntegrityError(
            f"{path}: expected a list of the pack's files, got at {place[:80]}: {first['msg']}. Fetch the pack again."
        ) from None
    if listing.format != FORMAT:
        raise IntegrityError(
            f"{path}: expected pack format {FORMAT}, got {listing.format}. It was written by another bench: upgrade."
        )
    return listing


def _check_names(listing: _Listing) -> None:
    """Refuse every name that `pack` would not write, and more than a pack can sensibly unfold to."""
    for name in (*listing.files, *listing.archives, *(p for a in listing.archives.values() for p in a.parts)):
        if not is_part(name):
            raise _refused(f"expected a file of a pack, got the name {name[:80]!r}")
    for archive, facts in listing.archives.items():
        for name in facts.members:
            if archive not in ARCHIVES or not _is_member(archive, name):
                raise _refused(f"{archive}: expected only files of a result folder, got the name {name[:80]!r}")
        if facts.parts != [archive] and facts.parts != [f"{archive}.{i + 1:03d}" for i in range(len(facts.parts))]:
            raise IntegrityError(
                f"{LISTING}: expected the parts of {archive} in order, got {facts.parts[:9]}. Fetch the pack again."
            )
    if absent := {p for a in listing.archives.values() for p in a.parts} - set(listing.files):
        raise IntegrityError(f"{LISTING}: expected {min(absent)} among its files, got none. Fetch the pack again.")
    if NAME not in (listing.archives["store.zip"].members if "store.zip" in listing.archives else {}):
        raise IntegrityError(f"{LISTING}: expected a store.zip with {NAME}, got none. Fetch the pack again.")
    total = 0
    for archive, facts in listing.archives.items():
        unfolded = sum(piece.bytes for piece in facts.members.values())
        total += unfolded
        most = min(MOST, MOST_RATIO * facts.bytes + SLACK)
        if unfolded > most or total > MOST or facts.bytes > MOST:
            raise _refused(f"expected at most {most:,} bytes to unpack from {archive}, got {unfolded:,}")


def _is_member(archive: str, name: str) -> bool:
    if archive == "board.zip":
        return name in EXPORTS or bool(_INFO.fullmatch(name))
    if archive == "store.zip":
        return name in (NAME, AUDITS) or bool(_CHALLENGE.fullmatch(name))
    return bool(_WEIGHTS.fullmatch(name))


def _refused(what: str) -> SecurityError:
    return SecurityError(f"{LISTING}: {what}. Do not use this pack.")


def _check_file(folder: Path, name: str, piece: _Piece) -> None:
    path = folder / name
    if path.is_symlink():
        raise SecurityError(f"{path}: expected a file of the pack, got a link. Do not use this pack.")
    if not path.is_file():
        raise IntegrityError(f"{path}: expected a part of the pack, found none. Fetch the pack again, all of it.")
    if path.stat().st_size != piece.bytes or hashing.sha256(path) != piece.sha256:
        raise IntegrityError(
            f"{path}: expected {piece.bytes} bytes with SHA-256 {piece.sha256[:12]}, got {path.stat().st_size} bytes "
            f"with {hashing.sha256(path)[:12]}. Fetch the pack again."
        )


def _extract(folder: Path, target: Path | None, name: str, facts: _Archive) -> None:
    """Join an archive's parts, check what it holds, and write it under `target`; None: only check it."""
    with tempfile.TemporaryFile() as joined:
        for part in facts.parts:
            with (folder / part).open("rb") as stream:
                shutil.copyfileobj(stream, joined, _BLOCK)
        _check_joined(joined, name, facts)
        try:
            _check_directory(joined, name, len(facts.members))
            with zipfile.ZipFile(joined) as archive:
                _check_members(archive, name, facts)
                _check_windows(joined, archive, name)
                for member, piece in facts.members.items():
                    _extract_member(archive, member, piece, target)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
            raise IntegrityError(
                f"{name}: expected a sound archive, got {type(error).__name__}: {error}. Fetch the pack again."
            ) from error


def _check_joined(joined: io.BufferedRandom, name: str, facts: _Archive) -> None:
    """Refuse parts that do not make the archive which the list names, whose size limits what it may unfold to."""
    size = joined.seek(0, os.SEEK_END)
    joined.seek(0)
    found = hashlib.file_digest(joined, "sha256").hexdigest() if size == facts.bytes else ""
    if found != facts.sha256:
        raise IntegrityError(
            f"{name}: expected {facts.bytes} bytes with SHA-256 {facts.sha256[:12]} from its parts, got {size} bytes. "
            "Fetch the pack again."
        )


def _check_directory(joined: IO[bytes], name: str, members: int) -> None:
    """Refuse an archive that lists more entries than `pack.json`, before Python makes an object of each."""
    size = joined.seek(0, os.SEEK_END)
    joined.seek(max(0, size - _END.size))
    end = joined.read(_END.size)
    mark, *_, entries, _, _, comment = _END.unpack(end) if len(end) == _END.size else (b"", 0, 0, 0, 0)
    if mark != b"PK\x05\x06" or comment:
        raise zipfile.BadZipFile("it does not end as an archive of `results pack` does")
    if entries > max(members, _FEW):
        raise _refused(f"{name}: expected {members} files, got {entries}")


def _check_members(archive: zipfile.ZipFile, name: str, facts: _Archive) -> None:
    """Refuse an archive that holds anything but the plain files that the list names."""
    entries = archive.infolist()
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if not _is_member(name, entry.filename) or kind not in (0, stat.S_IFREG):
            raise _refused(f"{name}: expected only plain files of a result folder, got {entry.filename[:80]!r}")
    if sorted(e.filename for e in entries) != sorted(facts.members):
        raise IntegrityError(f"{name}: expected the files that {LISTING} names, got others. Fetch the pack again.")


def _check_windows(joined: IO[bytes], archive: zipfile.ZipFile, name: str) -> None:
    """Refuse LZMA with a window that would take gigabytes of memory before a byte is unpacked."""
    for entry in archive.infolist():
        if entry.compress_type != zipfile.ZIP_LZMA:
            continue
        joined.seek(entry.header_offset)
        local = joined.read(_LOCAL.size)
        *_, name_bytes, extra = _LOCAL.unpack(local) if len(local) == _LOCAL.size else (0, 0)
        joined.seek(entry.header_offset + _LOCAL.size + name_bytes + extra)
        window = int.from_bytes(joined.read(_WINDOW_AT + 4)[_WINDOW_AT:], "little")
        if window > MOST_WINDOW:
            raise _refused(f"{name}: expected an LZMA window of at most {MOST_WINDOW:,} bytes, got {window:,}")


def _extract_member(archive: zipfile.ZipFile, name: str, piece: _Piece, target: Path | None) -> None:
    """Read one file, never more of it than announced; write it unless `target` is None."""
    if archive.getinfo(name).file_size != piece.bytes:
        raise IntegrityError(
            f"{name}: expected {piece.bytes} bytes, got {archive.getinfo(name).file_size}. Fetch the pack again."
        )
    path = Path(os.devnull) if target is None else target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    with archive.open(name) as stream, path.open("wb") as out:
        while block := stream.read(_BLOCK):
            hasher.update(block)
            out.write(block)
    if hasher.hexdigest() != piece.sha256:
        raise IntegrityError(
            f"{name}: expected SHA-256 {piece.sha256[:12]}, got {hasher.hexdigest()[:12]}. Fetch the pack again."
        )
