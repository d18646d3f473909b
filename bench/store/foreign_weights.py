"""Checkpoints of other people: safetensors, or what `torch.save` wrote, read without running any code of theirs."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from bench.core import hashing
from bench.core.errors import IntegrityError, MachineError, SecurityError, UsageError

# Keys under which training scripts keep the state_dict beside optimiser, epoch and so on; the first that fits counts.
NESTED: Final = ("state_dict", "model_state_dict", "model", "net", "params", "ema", "module")
# What DataParallel, torch.compile and wrappers put before each name.
PREFIXES: Final = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
_LISTED: Final = 3  # names that an error lists
_DEEPEST: Final = 3  # nested mappings that are looked into

State = dict[str, Tensor]


def digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint.

    Args:
        path: the file.

    Raises:
        UsageError: there is none.
        MachineError: it cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"--weights: expected a file, got {str(path)!r}, which is none. Check the path.")
    try:
        return hashing.sha256(path)
    except OSError as error:
        raise MachineError(f"{path}: expected a readable file, got {error.strerror}. Change its mode.") from error


def load_into(model: nn.Module, path: Path, expected: str) -> None:
    """Load a checkpoint into a network: every parameter and buffer, nothing left over.

    Tried are the names as they are and without the prefixes of wrappers, first for the network itself, then for each
    of its children: a checkpoint of the bare network serves for one that `bench.wrap` returned.

    Args:
        model: the network.
        path: the checkpoint.
        expected: its SHA-256.

    Raises:
        IntegrityError: the file has changed since it was hashed, or is damaged.
        SecurityError: it holds objects that only running its code would restore.
        UsageError: it is no state_dict, or not this network's.
    """
    if digest(path) != expected:
        raise IntegrityError(f"{path.name}: expected the file that the command has read, got another. Run it again.")
    state = read_state(path)
    problems: list[tuple[int, str]] = []
    for target in (model, *(inner for inner in _inner(model) if inner.state_dict())):
        for renamed in _spellings(state):
            misfit, problem = _misfit(target, renamed)
            if not problem:
                target.load_state_dict(renamed)
                return
            problems.append((misfit, problem))
    raise UsageError(
        f"{path.name}: expected the weights of the network that the factory returns, got {min(problems)[1]}. "
        "Build the network as it was trained, or save its state_dict."
    )


def read_state(path: Path) -> State:
    """Return the tensors of a checkpoint by name.

    Args:
        path: `.safetensors`, or anything that `torch.save` wrote: a state_dict, or a mapping that holds one.

    Raises:
        IntegrityError: the file is damaged.
        SecurityError: it holds objects that only running its code would restore.
        UsageError: it holds no state_dict.
    """
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    state = _state_in(content)
    if state is None:
        held = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise UsageError(
            f"{path.name}: expected a state_dict, names to tensors, got {held[:120] or 'nothing'}. "
            "Save it with torch.save(model.state_dict(), file)."
        )
    return state


def _safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise IntegrityError(
            f"{path.name}: expected a safetensors file, got {_short(error)}. Replace the file."
        ) from error


def _pickled(path: Path) -> object:
    """Return what `torch.save` wrote: tensors and plain containers alone."""
    if zipfile.is_zipfile(path):
        _look_into(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _require_pickle(path)
        raise SecurityError(
            f"{path.name}: expected tensors in plain containers, got objects that only code restores"
            f"{_named(error)}. Where you trust it: torch.load(file, weights_only=False), then "
            "torch.save(model.state_dict(), new_file)."
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise IntegrityError(
            f"{path.name}: expected what torch.save wrote, got {_read_as(error)}. Replace the file."
        ) from error


def _require_pickle(path: Path) -> None:
    """Refuse a file that `torch.save` cannot have written, such as a web page in the place of a download.

    Raises:
        IntegrityError: it is neither an archive nor a pickle of protocol 2 or newer.
    """
    with path.open("rb") as file:
        head = file.read(20)
    if not (zipfile.is_zipfile(path) or head.startswith(b"\x80")):
        raise IntegrityError(
            f"{path.name}: expected what torch.save wrote, got a file that begins with {head!a}. Replace the file."
        )


def _look_into(path: Path) -> None:
    """Refuse an archive that `torch.save` did not write; nothing of it is unfolded.

    Raises:
        UsageError: it is a network with its code, as `torch.jit.save` writes it.
        IntegrityError: it is damaged, or its entries are larger than the file: `torch.save` compresses nothing.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise IntegrityError(
            f"{path.name}: expected what torch.save wrote, got {_short(error)}. Replace the file."
        ) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise UsageError(f"{path.name}: expected weights, got TorchScript. Call torch.jit.load in the factory.")
    if (unfolded := sum(entry.file_size for entry in entries)) > size:
        raise IntegrityError(
            f"{path.name}: expected what torch.save wrote, got {size:,} bytes that unfold to {unfolded:,}. Replace the "
            "file."
        )


def _named(error: pickle.UnpicklingError) -> str:
    """Return which object a file would have made by code, in brackets; "" where torch does not name it."""
    found = re.search(r"\bGLOBAL ([\w.]{1,80})", str(error))
    return f" ({found[1]})" if found else ""


def _read_as(error: Exception) -> str:
    """Return why a file is none of torch's: its words, or that it is empty or something else, of which it has none."""
    if isinstance(error, EOFError):
        return "an empty or cut off file"
    return "another kind of file" if isinstance(error, KeyError | IndexError) else _short(error)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def _state_in(content: object, depth: int = 0) -> State | None:
    """Return the state_dict that a checkpoint is, or holds under a usual key; None if there is none."""
    if not isinstance(content, Mapping) or not content or depth > _DEEPEST:
        return None
    if all(isinstance(value, Tensor) for value in content.values()):
        return {str(name): value for name, value in content.items()}
    found = (_state_in(content[key], depth + 1) for key in NESTED if key in content)
    return next((state for state in found if state is not None), None)


def _inner(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of which one may be the bare network: the children, and those of lists of modules."""
    for child in model.children():
        yield from child if isinstance(child, nn.ModuleList) else (child,)


def _spellings(state: State) -> Iterator[State]:
    """Yield a state as it is, then without each prefix that all of its names have."""
    yield state
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in state)), ""):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        yield state


def _misfit(target: nn.Module, state: State) -> tuple[int, str]:
    """Return how many names do not fit a module, and which; 0 and "" if it is the module's state."""
    own = {name: value for name, value in target.state_dict().items() if isinstance(value, Tensor)}
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # torch before 0.4.1 had none
    missing = [name for name in own if name not in state and name not in counters]
    foreign = [name for name in state if name not in own]
    shaped = [
        f"{name} of shape {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    parts = [f"none for {_listing(missing)}"] if missing else []
    parts += [f"{_listing(foreign)}, which it has not"] if foreign else []
    parts += [_listing(shaped)] if shaped else []
    return len(missing) + len(foreign) + len(shaped), "; ".join(parts)


def _listing(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
