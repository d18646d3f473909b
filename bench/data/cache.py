"""Pictures that were decoded before, in the cache folder: a file per split, under the SHA-256 of its sources.

Such a file is a safetensors file, which holds numbers and no code, with the fingerprint of what is in it; one that is
damaged, or that another user wrote, is decoded again and replaced. All of them may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.core import files
from bench.core.cache_folder import cache_folder, is_ours
from bench.core.errors import MachineError
from bench.core.hashing import sha256_of
from bench.data.reading import Arrays
from bench.data.split import fingerprint

WORTH: Final = 1000  # pictures from which decoding (0.3 s of CPU time at 32×32) costs more than hashing their files
VERSION: Final = 1  # of what is kept

DECODED: Final = ".decoded"  # hidden, so that no data set is looked for in it

log = logging.getLogger("bench.data.cache")


def decoded_once(
    sources: Sequence[Path],
    facts: Mapping[str, object],
    read: Callable[[int | None], Arrays],
    total: int,
    n: int | None,
) -> Arrays:
    """Return the first n pictures of a split with their labels, from the cache if they are there.

    A whole split that is decoded is kept, and serves any n. Where the folder cannot be written nothing is kept.

    Args:
        sources: the files that hold the encoded pictures.
        facts: whatever else the result depends on, as plain data.
        read: decodes the first n (None: all) into images (n, C, H, W) and labels (n,).
        total: pictures of the split.
        n: how many are wanted; None: all.
    """
    count = total if n is None else min(n, total)
    if count < WORTH:
        return read(n)
    path = cache_folder() / DECODED / f"{_key(sources, facts)}.safetensors"
    kept = _kept(path, total)
    if kept is not None:
        return kept[0][:count], kept[1][:count]
    images, labels = read(n)
    if count == total:
        _keep(path, np.ascontiguousarray(images), np.ascontiguousarray(labels))
    return images, labels


def _key(sources: Sequence[Path], facts: Mapping[str, object]) -> str:
    """Return the SHA-256 of the files' contents, the facts, and the version of the library that decodes."""
    import PIL

    contents = []
    for path in sources:
        with path.open("rb") as stream:
            contents.append(hashlib.file_digest(stream, "sha256").hexdigest())
    known = {"files": contents, "facts": facts, "pillow": PIL.__version__, "version": VERSION}
    return sha256_of(json.dumps(known, sort_keys=True).encode())


def _kept(path: Path, total: int) -> Arrays | None:
    """Return what a file holds; None if it is missing or is not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        if not is_ours(path):
            return None
        with safe_open(path, framework="numpy") as file:
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
            expected = (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, TypeError):
        expected = None
    if expected is None or len(labels) != total or fingerprint(images, labels) != expected:
        log.info("%s is damaged; the pictures are decoded again", path)
        return None
    return images, labels


def _keep(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write a split; without a word where that is not possible."""
    from safetensors.numpy import save

    content = save({"images": images, "labels": labels}, {"sha256": fingerprint(images, labels)})
    with contextlib.suppress(MachineError):
        files.write_bytes(path, content)
