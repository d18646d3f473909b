"""What every borrowed attack is wrapped in, so that it leaves no trace: flags, gradients, generators, debugger."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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


def checked(where: str, norm: str, known: tuple[str, ...] = ("l2", "linf")) -> None:
    """Refuse a norm that the library does not have.

    Raises:
        ValueError: says which ones it has.
    """
    if norm not in known:
        raise ValueError(f"{where}: expected a norm among {list(known)}, got {norm!r}. Use another peer or norm.")
