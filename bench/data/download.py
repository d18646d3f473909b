"""Download the original archives, with a time-out and a checksum."""

from __future__ import annotations

import contextlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from bench.core.errors import IntegrityError, MachineError
from bench.data.info import DatasetInfo
from bench.data.reading import SPLITS, looks_like_html
from bench.data.torchvision_files import known_files, md5_of

_TIMEOUT = 20  # seconds without an answer; a machine without network should say so soon
_MOST_BYTES = 512 << 20  # of one file; the largest of the originals, SVHN's training images, has 174 MiB
_SECURE = {"http://ufldl.stanford.edu/": "https://ufldl.stanford.edu/"}  # torchvision names SVHN's server without TLS


def needed(info: DatasetInfo) -> list[tuple[str, str, str]]:
    """Return (file name, address, MD5) of what makes up the original."""
    known = known_files(info)
    if hasattr(known, "split_list"):
        return [(known.split_list[s][1], _secure(known.split_list[s][0]), known.split_list[s][2]) for s in SPLITS]
    return [(known.filename, _secure(known.url), known.tgz_md5)]


def _secure(address: str) -> str:
    """Return an address with https where the server is known to offer it."""
    for plain, secure in _SECURE.items():
        if address.startswith(plain):
            return secure + address.removeprefix(plain)
    return address


def fetch(info: DatasetInfo, folder: Path, *, allowed: bool, looked: str) -> None:
    """Download what is missing of the original into a folder; each file appears whole and checked, or not at all.

    Args:
        info: the data set.
        folder: where to.
        allowed: False raises at once, with the same sentence.
        looked: what was looked at before, for the message.

    Raises:
        MachineError: no network, no space, no permission, or not allowed.
        IntegrityError: what came is not the original.
    """
    for name, address, md5 in needed(info):
        if (folder / name).is_file():
            continue
        cause: Exception | None = None
        if allowed:
            try:
                _download(address, folder / name, md5)
                continue
            except (OSError, ValueError, http.client.HTTPException) as error:
                cause = error
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
        why = f"failed ({' '.join(str(cause).split())[:120]})" if cause else "was not allowed"
        raise MachineError(
            f"{info.name}: expected {name} in {folder}, got no such file, and the download from {address} {why}. "
            f"Put {name} (MD5 {md5}) into that folder, or name a folder that holds a copy with --data.{looked}"
        ) from cause


def _copy(stream: http.client.HTTPResponse, out: IO[bytes], address: str) -> None:
    """Copy an answer to a file, as far as an original can be long.

    Raises:
        IntegrityError: it is longer.
    """
    left = _MOST_BYTES
    while block := stream.read(1 << 20):
        left -= len(block)
        if left < 0:
            raise IntegrityError(f"{address}: expected at most {_MOST_BYTES:,} bytes, got more. Try again later.")
        out.write(block)


def _download(address: str, target: Path, md5: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(address, timeout=_TIMEOUT) as stream:
            _copy(stream, out, address)
        with open(temporary, "rb") as stream:
            got = md5_of(stream)
        if got != md5:
            what = "an HTML page" if looks_like_html(Path(temporary)) else f"MD5 {got}"
            raise IntegrityError(f"{address}: expected {target.name} with MD5 {md5}, got {what}. Try again later.")
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
