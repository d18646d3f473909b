"""Accepted challenges: somebody's adversarial examples that hold against a stored model, one file each.

A challenge is one safetensors file `challenges/<SHA-256 of its content>.safetensors`: the images, and in its metadata
who found them, how, when, against which weights. Nothing refers to it and nothing in it is ever changed, so that
several can be added at once. No torch.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bench.core import files
from bench.core.errors import IntegrityError
from bench.core.hashing import sha256_of

FOLDER: Final = "challenges"
CHALLENGE_FORMAT: Final = 1
MOST_BYTES: Final = 1_000_000_000  # of one file; 10,000 images of 3×32×32 with their clean ones take a quarter
MOST_TEXT: Final = 200  # characters of a credit or a method
_KEY: Final = "bench.challenge"
_ARRAYS: Final = {"index": np.int64, "clean": np.float32, "adversarial": np.float32}


class _Record(BaseModel):
    """A frozen record without unknown fields or silent conversions."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ChallengeEntry(_Record):
    """One adversarial example that holds.

    Attributes:
        index: place of the image in the test set.
        label: its true class.
        prediction: the class that the model gives the adversarial example.
        distance: size of the perturbation in the challenge's norm.
        clean_sha256: SHA-256 of the clean image's float32 pixels.
    """

    index: int = Field(ge=0)
    label: int = Field(ge=0)
    prediction: int = Field(ge=0)
    distance: float = Field(ge=0, allow_inf_nan=False)
    clean_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Challenge(_Record):
    """Who broke which images of which model, at which threat.

    Attributes:
        format: `CHALLENGE_FORMAT` of the version that wrote it.
        defense: canonical defense spec of the row.
        seed: training seed of the model.
        weights: SHA-256 of its weights.
        data: name of the data set.
        fingerprint: SHA-256 of the test images that the board was measured on.
        norm: "l2" or "linf".
        eps: radius of the ball.
        credit: who found the images; "" if unnamed.
        method: how, in a few words; "" if unnamed.
        date: ISO 8601, UTC, when they were verified.
        entries: the examples, by rising index, each image once.
    """

    format: int = Field(default=CHALLENGE_FORMAT, ge=CHALLENGE_FORMAT, le=CHALLENGE_FORMAT)
    defense: str
    seed: int
    weights: str = Field(pattern=r"^[0-9a-f]{64}$")
    data: str
    fingerprint: str
    norm: Literal["l2", "linf"]
    eps: float = Field(gt=0, allow_inf_nan=False)
    credit: str = Field(max_length=MOST_TEXT)
    method: str = Field(max_length=MOST_TEXT)
    date: str = Field(max_length=40)
    entries: tuple[ChallengeEntry, ...] = Field(min_length=1)

    @property
    def label(self) -> str:
        """The run, as the terminal names it, e.g. "lcnn seed 0"."""
        return f"{self.defense} seed {self.seed}"

    @property
    def moment(self) -> datetime:
        """The date as a time.

        Raises:
            ValueError: it is none.
        """
        found = datetime.fromisoformat(self.date)
        return found if found.tzinfo else found.replace(tzinfo=UTC)


def image_sha256(image: np.ndarray) -> str:
    """Return the SHA-256 of an image's pixels (C, H, W) as little-endian float32."""
    return sha256_of(np.ascontiguousarray(image, "<f4").tobytes())


def save_challenge(out: Path, challenge: Challenge, images: Mapping[str, np.ndarray]) -> Path:
    """Write a challenge into a result folder.

    Args:
        out: the result folder.
        challenge: the record.
        images: `index` (m,), `clean` and `adversarial` (m, C, H, W), in the order of the entries.

    Returns:
        The file.

    Raises:
        MachineError: the folder cannot be written.
    """
    arrays = {name: np.ascontiguousarray(images[name], dtype) for name, dtype in _ARRAYS.items()}
    content = save(arrays, metadata={_KEY: challenge.model_dump_json()})
    path = out / FOLDER / f"{sha256_of(content)}.safetensors"
    files.write_bytes(path, content)
    return path


def challenge_paths(out: Path) -> list[Path]:
    """Return the files of a folder's challenges, by name."""
    return sorted((out / FOLDER).glob("*.safetensors"))


def load_challenges(out: Path) -> tuple[Challenge, ...]:
    """Return a folder's challenges, the oldest first.

    Args:
        out: the result folder.

    Raises:
        IntegrityError: a file is damaged, or not the one that was written.
    """
    found = [
        (challenge.moment, path.name, challenge) for path in challenge_paths(out) for challenge in [_read(path)[0]]
    ]
    return tuple(challenge for *_, challenge in sorted(found, key=lambda one: one[:2]))


def load_challenge_images(path: Path) -> tuple[Challenge, dict[str, np.ndarray]]:
    """Return a challenge with its images: `index` (m,), `clean` and `adversarial` (m, C, H, W).

    Args:
        path: of `challenge_paths`.

    Raises:
        IntegrityError: the file is damaged, or not the one that was written.
    """
    return _read(path)


def _read(path: Path) -> tuple[Challenge, dict[str, np.ndarray]]:
    """Return a challenge's record and its images, checked against the file's name and each other."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise _unsound(path, f"{size} bytes, more than {MOST_BYTES}")
    content = path.read_bytes()
    if (found := sha256_of(content)) != path.stem:
        raise _unsound(path, f"content with SHA-256 {found[:12]}")
    try:
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        challenge = Challenge.model_validate_json(header["__metadata__"][_KEY])
        arrays: dict[str, np.ndarray] = load(content)
        _ = challenge.moment
    except ValidationError as error:
        first = error.errors()[0]
        raise _unsound(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise _unsound(path, f"{type(error).__name__}: {error}"[:200]) from None
    if problem := _problem(challenge, arrays):
        raise _unsound(path, problem)
    return challenge, arrays


def _problem(challenge: Challenge, arrays: Mapping[str, np.ndarray]) -> str:
    """Return in what record and images disagree, "" if in nothing."""
    if {name: array.dtype for name, array in arrays.items()} != {k: np.dtype(v) for k, v in _ARRAYS.items()}:
        return f"arrays {sorted(arrays)}"
    listed = [entry.index for entry in challenge.entries]
    if arrays["index"].tolist() != listed or listed != sorted(set(listed)):
        return "other images than it lists"
    clean, adversarial = arrays["clean"], arrays["adversarial"]
    if clean.ndim != 4 or clean.shape != adversarial.shape or len(clean) != len(listed):
        return f"images of shapes {clean.shape} and {adversarial.shape}"
    if [image_sha256(image) for image in clean] != [entry.clean_sha256 for entry in challenge.entries]:
        return "other clean images than it lists"
    return ""


def _unsound(path: Path, got: str) -> IntegrityError:
    return IntegrityError(
        f"{path}: expected an accepted challenge as it was stored, got {got}. Restore the file, or remove it."
    )
