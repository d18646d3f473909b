"""torchvision's own files of CIFAR-10, CIFAR-100 and SVHN, checked against their published checksums."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import IntegrityError
from bench.data.info import DatasetInfo
from bench.data.reading import SPLITS, Arrays, Found, check_labels, damaged


def original(folder: Path, info: DatasetInfo) -> Found | str | None:
    """Look for the original in torchvision's layout: extracted folder, archive, or .mat files.

    Checksums are compared when a split is read, before anything in it is used.

    Returns:
        What was found; or what is missing of it, None where no file has such a name.
    """
    if folder.name not in info.files and not any((folder / name).exists() for name in info.files):
        return None
    known = known_files(info)
    if hasattr(known, "split_list"):
        present = {s: (folder / known.split_list[s][1]).is_file() for s in SPLITS}
        if not all(present.values()):
            return f"it lacks {next(known.split_list[s][1] for s in SPLITS if not present[s])}"
        read = partial(_read_mat, folder, info)
    else:
        place = folder if folder.name == known.base_folder else folder / known.base_folder
        if not place.is_dir():
            place = folder / known.filename
            if not place.is_file():
                return None
        read = partial(_read_batches, place, info)
    layout = f"torchvision {info.torchvision}"
    return Found(info.name, layout, True, "", folder, dict(zip(SPLITS, info.totals, strict=True)), read)


def known_files(info: DatasetInfo) -> Any:
    """Return torchvision's class, for its file names, addresses and checksums."""
    import torchvision.datasets

    return getattr(torchvision.datasets, info.torchvision)


def md5_of(data: bytes | io.BufferedIOBase) -> str:
    """Return the MD5 of bytes or of the rest of a stream; torchvision publishes no stronger checksum."""
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
                got = md5_of(stream)
        else:
            got = md5_of(data)
    except OSError as error:
        damaged(path, "a readable file", error)
    if got != expected:
        damaged(path, f"the original with MD5 {expected}", f"MD5 {got}")


def _read_batches(place: Path, info: DatasetInfo, split: str, n: int | None) -> Arrays:
    """Read CIFAR's pickled batches from the extracted folder or the archive."""
    known = known_files(info)
    files = dict(known.train_list if split == "train" else known.test_list)
    blobs = _from_folder(place, files) if place.is_dir() else _from_archive(place, known, files)
    images, labels = [], []
    for name in files:
        batch = pickle.loads(blobs[name], encoding="latin1")
        images.append(np.asarray(batch["data"], np.uint8).reshape(-1, *info.shape))
        labels.append(np.asarray(batch["labels"] if "labels" in batch else batch["fine_labels"]))
    found = check_labels(np.concatenate(labels), len(info.classes), f"{place}, {split}")
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


def _read_mat(folder: Path, info: DatasetInfo, split: str, n: int | None) -> Arrays:
    """Read SVHN's .mat file; it writes the digit 0 as class 10."""
    import scipy.io

    _, name, md5 = known_files(info).split_list[split]
    _check_md5(folder / name, md5)
    content = scipy.io.loadmat(folder / name)
    labels = content["y"].reshape(-1).astype(np.int64)
    labels[labels == 10] = 0
    images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1)[:n])
    return images, check_labels(labels, len(info.classes), f"{folder / name}")[:n]
