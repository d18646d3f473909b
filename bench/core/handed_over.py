"""What is known of a model that was trained elsewhere: what builds its network, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROVENANCE: Final = "handed over"  # of a row whose weights were not trained here


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A model that somebody hands over to be measured.

    Attributes:
        file: the Python file that defines its factory, absolute; never stored.
        factory: name in that file of what builds the network, called without arguments.
        weights: file of weights that is loaded into the network; None: the factory brings them, or they are stored.
        sha256: of that file; "" where the factory brings the weights.
    """

    file: Path
    factory: str
    weights: Path | None = None
    sha256: str = ""

    @property
    def spelling(self) -> str:
        """File name and factory without a folder, as stored and shown: "nets.py:oval_base"."""
        return f"{self.file.name}:{self.factory}"

    def as_data(self) -> dict[str, str]:
        """Return what is stored of it: the factory, the weights' file name and its SHA-256; no path."""
        return {
            "factory": self.spelling,
            "weights": self.weights.name if self.weights else "",
            "sha256": self.sha256,
        }
