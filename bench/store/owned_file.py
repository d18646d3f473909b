"""Files beside the store that say whose they are: a line of JSON, the head, before the content.

The head names the owner and holds the SHA-256 of the content, which is compared before anything reads any of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.core import files
from bench.core.hashing import sha256_of

FORMAT: Final = 1
LONGEST_HEAD: Final = 4096  # bytes


@dataclass(frozen=True)
class OwnedFile:
    """A file with a head: whose it is, and what it holds."""

    owner: str
    body: bytes


def write_owned(path: Path, owner: str, body: bytes) -> None:
    """Write a file with a head, atomically.

    Raises:
        MachineError: the disk is full, or the folder cannot be written.
    """
    head = {"format": FORMAT, "owner": owner, "sha256": sha256_of(body)}
    files.write_bytes(path, json.dumps(head).encode() + b"\n" + body)


def read_owned(path: Path) -> OwnedFile:
    """Return what a file with a head holds, proved to be whole.

    Raises:
        ValueError: it is damaged, or has no head.
        OSError: it cannot be read.
    """
    line, newline, body = path.read_bytes().partition(b"\n")
    if not newline or len(line) > LONGEST_HEAD:
        raise ValueError("a file without a head")
    head = json.loads(line)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"another format than {FORMAT}")
    if head.get("sha256") != sha256_of(body):
        raise ValueError(f"SHA-256 {sha256_of(body)[:12]} instead of {str(head.get('sha256'))[:12]}")
    return OwnedFile(str(head.get("owner")), body)
