"""What every borrowed attack is wrapped in, so that it leaves no trace: flags, gradients, generators, debugger."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor, nn

from bench.core.torch_state import frozen_eval, known_state


@contextmanager
def isolated(model: nn.Module, x: Tensor, seed: int) -> Iterator[None]:
    """Seed torch for one call of a library; put back generators, modes, requires_grad and the trace function.

    Parameters ask for no gradient meanwhile, so no library can fill `p.grad`. These libraries draw for the whole
    batch at once: their results, unlike ours, depend on the batch.
    """
    tracer = sys.gettrace()
    devices = [x.device] if x.device.type == "cuda" else []
    with known_state(), torch.random.fork_rng(devices), frozen_eval(model):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            sys.settrace(tracer)


@contextmanager
def quiet_import() -> Iterator[None]:
    """Hide the deprecation warnings of a library's import: nobody here can fix them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def optional(module: str, library: str, advice: str) -> ModuleType:
    """Import a module of a library that bench does not require.

    Args:
        module: its full name.
        library: the library's name, for the message.
        advice: how to install it.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: the library, or something that it imports, is not installed.
    """
    try:
        with quiet_import():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"peer attack: expected {library}, got none ({error.name}). {advice}") from error


def checked(where: str, norm: str, known: tuple[str, ...] = ("l2", "linf")) -> None:
    """Refuse a norm that the library does not have.

    Raises:
        ValueError: says which ones it has.
    """
    if norm not in known:
        raise ValueError(f"{where}: expected a norm among {list(known)}, got {norm!r}. Use another peer or norm.")
