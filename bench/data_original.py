"""Read and fetch the originals, as torchvision lays them out and with torchvision's checksums.

Nothing is unpacked to disk: the archive is read in memory, member by member, so no path inside it can do harm; and
nothing is unpickled before its checksum is known to be right.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import pickle
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.data_facts import Facts
from bench.data_reading import SPLITS, Arrays, Found, check_labels, damaged, looks_like_html
from bench.errors import EnvironmentProblem, IntegrityError

_TIMEOUT = 20  # seconds without an answer; a machine without network should say so soon


def original(folder: Path, facts: Facts) -> Found | str | None:
    """Look for the original in torchvision's layout: extracted folder, archive, or .mat files.

    Checksums are compared when a split is read, before anything in it is used.
    """
    if folder.name not in facts.files and not any((folder / name).exists() for name in facts.files):
        return None
    known = _known(facts)
    if hasattr(known, "split_list"):
        present = {s: (folder / known.split_list[s][1]).is_file() for s in SPLITS}
        if not all(present.values()):
            return f"it lacks {next(known.split_list[s][1] for s in SPLITS if not present[s])}"
        read = partial(_read_mat, folder, facts)
    else:
        place = folder if folder.name == known.base_folder else folder / known.base_folder
        if not place.is_dir():
            place = folder / known.filename
            if not place.is_file():
                return None
        read = partial(_read_batches, place, facts)
    layout = f"torchvision {facts.torchvision}"
    return Found(facts.name, layout, True, "", folder, dict(zip(SPLITS, facts.totals, strict=True)), read)


def _known(facts: Facts) -> Any:
    """Return torchvision's class, for its file names, addresses and checksums."""
    import torchvision.datasets

    return getattr(torchvision.datasets, facts.torchvision)


def _md5(data: bytes | io.BufferedIOBase) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(data, bytes):
        digest.update(data)
    else:
        while block := data.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_md5(path: Path, expected: str, data: bytes | None = None) -> None:
    """Compare a file's MD5 (or that of bytes read from it).

    Raises:
        IntegrityError: it differs.
    """
    try:
        if data is None:
            with path.open("rb") as stream:
                got = _md5(stream)
        else:
            got = _md5(data)
    except OSError as error:
        damaged(path, "a readable file", error)
    if got != expected:
        damaged(path, f"the original with MD5 {expected}", f"MD5 {got}")


def _read_batches(place: Path, facts: Facts, split: str, n: int | None) -> Arrays:
    """Read CIFAR's pickled batches from the extracted folder or the archive."""
    known = _known(facts)
    files = dict(known.train_list if split == "train" else known.test_list)
    blobs = _from_folder(place, files) if place.is_dir() else _from_archive(place, known, files)
    images, labels = [], []
    for name in files:
        batch = pickle.loads(blobs[name], encoding="latin1")
        images.append(np.asarray(batch["data"], np.uint8).reshape(-1, *facts.shape))
        labels.append(np.asarray(batch["labels"] if "labels" in batch else batch["fine_labels"]))
    found = check_labels(np.concatenate(labels), len(facts.classes), f"{place}, {split}")
    return np.concatenate(images)[:n], found[:n]


def _from_folder(place: Path, files: dict[str, str]) -> dict[str, bytes]:
    blobs = {}
    for name, md5 in files.items():
        path = place / name
        if not path.is_file():
            raise IntegrityError(f"{path}: expected a file of the original, got none. Extract the archive again.")
        try:
            blobs[name] = path.read_bytes()
        except OSError as error:
            damaged(path, "a readable file", error)
        _check_md5(path, md5, blobs[name])
    return blobs


def _from_archive(path: Path, known: Any, files: dict[str, str]) -> dict[str, bytes]:
    """Read members of the checksummed archive by their exact names; nothing is extracted."""
    _check_md5(path, known.tgz_md5)
    wanted = {f"{known.base_folder}/{name}": name for name in files}
    blobs: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.isfile() and member.name in wanted else None
            if stream is not None:
                blobs[wanted[member.name]] = stream.read()
    for name, md5 in files.items():
        if name not in blobs:
            raise IntegrityError(f"{path}: expected a member {name}, got none. Replace the archive.")
        _check_md5(path, md5, blobs[name])
    return blobs


def _read_mat(folder: Path, facts: Facts, split: str, n: int | None) -> Arrays:
    """Read SVHN's .mat file; it writes the digit 0 as class 10."""
    import scipy.io

    _, name, md5 = _known(facts).split_list[split]
    _check_md5(folder / name, md5)
    content = scipy.io.loadmat(folder / name)
    labels = content["y"].reshape(-1).astype(np.int64)
    labels[labels == 10] = 0
    images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)[:n])
    return images, check_labels(labels, len(facts.classes), f"{folder / name}")[:n]


# --- fetching -------------------------------------------------------------------------------------------------------


def needed(facts: Facts) -> list[tuple[str, str, str]]:
    """Return (file name, address, MD5) of what makes up the original."""
    known = _known(facts)
    if hasattr(known, "split_list"):
        return [(known.split_list[s][1], known.split_list[s][0], known.split_list[s][2]) for s in SPLITS]
    return [(known.filename, known.url, known.tgz_md5)]


def fetch(facts: Facts, folder: Path, *, allowed: bool, looked: str) -> None:
    """Download what is missing of the original into a folder; each file appears whole and checked, or not at all.

    Args:
        facts: the data set.
        folder: where to.
        allowed: False raises at once, with the same sentence.
        looked: what was looked at before, for the message.

    Raises:
        EnvironmentProblem: no network, no space, no permission, or not allowed.
        IntegrityError: what came is not the original.
    """
    for name, address, md5 in needed(facts):
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
        raise EnvironmentProblem(
            f"{facts.name}: expected {name} in {folder}, got no such file, and the download from {address} {why}. "
            f"Put {name} (MD5 {md5}) into that folder, or name a folder that holds a copy with --data.{looked}"
        ) from cause


def _download(address: str, target: Path, md5: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(address, timeout=_TIMEOUT) as stream:
            shutil.copyfileobj(stream, out, 1 << 20)
        with open(temporary, "rb") as stream:
            got = _md5(stream)
        if got != md5:
            what = "an HTML page" if looks_like_html(Path(temporary)) else f"MD5 {got}"
            raise IntegrityError(f"{address}: expected {target.name} with MD5 {md5}, got {what}. Try again later.")
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
