"""What a cell is: the unit of work, caching, resuming and distribution, and the key that names it.

A key is the SHA-256 of canonical JSON of everything that can change the cell's result and of nothing else: never
a time, a path, a host or the evaluation's batch size. Source files count by their content, so that an edited
defense or attack is computed anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class TrainCell:
    """One model to be trained: a defense and a seed.

    Attributes:
        spec: everything that can change the result, as plain data.
    """

    spec: dict[str, Any]

    @property
    def id(self) -> str:
        """The cell's key."""
        return key("train", self.spec)


@dataclass(frozen=True, slots=True)
class EvaluationCell:
    """One evaluation of one set of weights on one set of images.

    Attributes:
        spec: everything that can change the result, as plain data.
    """

    spec: dict[str, Any]

    @property
    def id(self) -> str:
        """The cell's key."""
        return key("evaluation", self.spec)


def key(kind: str, spec: dict[str, Any]) -> str:
    """Return the SHA-256 of a cell's description in canonical JSON."""
    text = json.dumps({"kind": kind, **spec}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def runtime(device: str, precision: str) -> dict[str, str]:
    """Return the part of a key that says where numbers are computed: device kind, precision, torch's major.minor."""
    import torch

    return {
        "device": device.partition(":")[0],
        "precision": precision,
        "torch": ".".join(torch.__version__.split(".")[:2]),
    }


def plain(value: object) -> JsonValue:
    """Return a hyper-parameter or an argument as JSON data."""
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return in words what differs between two cells' descriptions: why a stored result does not serve."""
    found: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += difference(a, b, f"{prefix}{name}.")
        elif "sha256" in f"{prefix}{name}" or prefix.startswith("sources."):
            found.append(f"{prefix}{name} changed")
        else:
            found.append(f"{prefix}{name}: {_short(a)} → {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
