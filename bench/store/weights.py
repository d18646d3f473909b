"""Trained weights on disk, named by their SHA-256."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.core import files, hashing
from bench.core.errors import IntegrityError, UsageError
from bench.core.torch_state import same_bits


def pack_state(model: nn.Module) -> bytes:
    """Write a model's state_dict as a safetensors file, in memory; shared tensors are written once per name.

    Args:
        model: whose code ties what is tied: loading writes the same values to each name.

    Returns:
        The file's content; the same weights give the same bytes.

    Raises:
        UsageError: an entry is no plain tensor, or of a kind that the file cannot hold; it is named.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, value in model.state_dict().items():
        if problem := _problem(value):
            raise UsageError(_not_storable(model, f"{problem} in {name}"))
        place = value.untyped_storage().data_ptr()
        tensors[name] = value.contiguous().clone() if place in memory else value.contiguous()
        memory.add(place)
    try:
        return save(tensors)
    except Exception as error:
        raise UsageError(_not_storable(model, _culprit(tensors) or f"{type(error).__name__}: {error}")) from error


def _problem(value: object) -> str:
    """Return why an entry of a state_dict cannot be stored, "" if nothing speaks against it."""
    if not isinstance(value, Tensor):
        return f"extra state of type {type(value).__name__}"
    if type(value) not in (Tensor, nn.Parameter):
        return f"a tensor of type {type(value).__name__}"
    if value.is_quantized or value.layout is not torch.strided or value.is_meta:
        return f"a {'quantized' if value.is_quantized else 'meta' if value.is_meta else value.layout} tensor"
    return ""


def _culprit(tensors: Mapping[str, Tensor]) -> str:
    """Return the first tensor that safetensors refuses, with its type; "" if each can be written alone."""
    from safetensors.torch import save

    for name, tensor in tensors.items():
        try:
            save({name: tensor})
        except Exception:
            return f"{tensor.dtype} in {name}"
    return ""


def _not_storable(model: nn.Module, got: str) -> str:
    return (
        f"model {type(model).__name__}: expected a state_dict of dense tensors that safetensors holds, got {got}. "
        "Keep it in a buffer of another type, or let the factory build it anew."
    )


def unpack_state(model: nn.Module, content: bytes) -> None:
    """Load what `pack_state` returned into a model of the same code.

    Raises:
        ValueError: it does not fit; the message says what and where.
    """
    from safetensors.torch import load

    stored = load(content)
    try:
        model.load_state_dict(stored)
    except Exception as error:  # set_extra_state and hooks are the module's own code
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    found = model.state_dict()
    for name, value in stored.items():
        held = found.get(name)
        if not isinstance(held, Tensor) or not same_bits(held.detach().cpu(), value):
            raise ValueError(f"other values in {name} after loading")


def save_weights(content: bytes, out: Path) -> str:
    """Write a model's weights to a result folder.

    Args:
        content: the weights as `pack_state` gives them.
        out: the result folder.

    Returns:
        Their SHA-256, which names the file.

    Raises:
        MachineError: the folder cannot be written.
    """
    sha = hashing.sha256_of(content)
    files.write_bytes(weights_path(out, sha), content)
    return sha


def load_weights(model: nn.Module, path: Path, expected: str) -> nn.Module:
    """Load weights whose SHA-256 is known into a model and return it in eval mode.

    Returns:
        The model.

    Raises:
        IntegrityError: the file is not the one that was stored, or does not fit the model.
    """
    if not path.is_file():
        raise IntegrityError(
            f"{path}: expected the weights of a trained model, got no file. Run the command that made the folder "
            "again to train anew, or unpack a pack that holds the weights."
        )
    content = path.read_bytes()
    if (found := hashing.sha256_of(content)) != expected:
        raise IntegrityError(f"{path}: {wrong_weights(expected, found)}")
    try:
        unpack_state(model, content)
    except ValueError as error:
        raise IntegrityError(
            f"{path}: expected weights of this model, got {error}. Delete the file and run again."
        ) from error
    return model.eval()


def require_weights(out: Path, sha: str) -> None:
    """Refuse weights whose file is not the one that was stored; a file that is not there is no damage.

    Args:
        out: the result folder.
        sha: their SHA-256.

    Raises:
        IntegrityError: the file has another SHA-256.
    """
    path = weights_path(out, sha)
    if path.is_file() and (found := hashing.sha256(path)) != sha:
        raise IntegrityError(f"{path}: {wrong_weights(sha, found)}")


def wrong_weights(expected: str, found: str) -> str:
    """Return how a message goes on about weights that are not the ones that were stored.

    Args:
        expected: their SHA-256.
        found: that of the file.
    """
    return (
        f"expected weights with SHA-256 {expected[:12]}, got {found[:12]}. Restore the file, or delete it and run the "
        "command that made the folder again to train anew."
    )


def weights_path(out: Path, sha: str) -> Path:
    """Return where a set of weights lies."""
    return out / "weights" / f"{sha}.safetensors"
