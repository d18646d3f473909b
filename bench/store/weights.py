"""Trained weights on disk, named by their SHA-256."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bench.core import hashing
from bench.core.errors import (
    IntegrityError,
)


def load_weights(model: nn.Module, path: Path, expected: str) -> nn.Module:
    """Load weights whose SHA-256 is known into a model.

    Args:
        model: a network of the same architecture.
        path: a safetensors file.
        expected: SHA-256 of its content.

    Returns:
        The model, in eval mode.

    Returns:
        The model.

    Raises:
        IntegrityError: the file is not the one that was stored, or does not fit the model.
    """
    from safetensors.torch import load

    if not path.is_file():
        raise IntegrityError(
            f"{path}: expected the weights of a trained model, got no file. Unpack a pack that holds the weights, or "
            "choose a new --out to train anew."
        )
    content = path.read_bytes()
    if (found := hashing.sha256_of(content)) != expected:
        raise IntegrityError(
            f"{path}: expected weights with SHA-256 {expected[:12]}, got {found[:12]}. Restore the file, or delete it "
            "and run again to train anew."
        )
    try:
        model.load_state_dict(load(content))
    except RuntimeError as error:
        raise IntegrityError(
            f"{path}: expected weights of this model, got: {error}. Delete the file and run again."
        ) from error
    return model.eval()


def weights_path(out: Path, sha: str) -> Path:
    """Return where a set of weights lies."""
    return out / "weights" / f"{sha}.safetensors"
