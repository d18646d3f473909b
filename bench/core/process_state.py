"""State of the whole process that third parties' code may change: saved before it runs, put back after it.

Importing this module does not import torch; its switches are saved where it is loaded, else they are set to what they
are in a fresh process.
"""

from __future__ import annotations

import contextlib
import functools
import locale
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

_GUARDED: Final = ("torch", "numpy", "bench")  # libraries whose functions must stay what they are
_MISSING: Final = object()

Undo = Callable[[], object]


@contextlib.contextmanager
def process_state_kept() -> Iterator[None]:
    """Put back after the block what code in it has changed of the whole process.

    That is: the working folder, environment variables, search path, locale, recursion limit, standard streams, warning
    filters, signal handlers; the generators of Python, numpy and torch; torch's default type and device, gradient mode,
    threads, deterministic algorithms and precisions; numpy's error handling; functions and methods of torch, numpy and
    bench that were exchanged for others.
    """
    undo = [*_of_the_system(), *_of_python(), *_of_numpy(), *_of_torch()]
    originals = _originals()
    try:
        yield
    finally:
        _put_back(originals)
        for restore in undo:
            with contextlib.suppress(OSError, ValueError):  # a folder that is gone, a thread that may set no handler
                restore()


def _of_the_system() -> list[Undo]:
    """Return what puts working folder, environment, locale and signal handlers back."""
    environment = dict(os.environ)

    def restore_environment() -> None:
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        for name, value in environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    undo: list[Undo] = [restore_environment, functools.partial(locale.setlocale, locale.LC_ALL, locale.setlocale(0))]
    with contextlib.suppress(OSError):
        undo.append(functools.partial(os.chdir, Path.cwd()))
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGCHLD, signal.SIGPIPE):
            if (handler := signal.getsignal(number)) is not None:
                undo.append(functools.partial(_set_handler, number, handler))
    return undo


def _set_handler(number: signal.Signals, handler: Any) -> None:
    if signal.getsignal(number) is not handler:
        signal.signal(number, handler)


def _of_python() -> list[Undo]:
    """Return what puts the interpreter's own settings back."""
    path, filters = sys.path[:], warnings.filters[:]

    def restore_lists() -> None:
        sys.path[:] = path
        if warnings.filters != filters:
            warnings.filters[:] = filters  # type: ignore[index]
            warnings._filters_mutated()  # type: ignore[attr-defined]

    streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr", "excepthook", "displayhook")}
    return [
        restore_lists,
        functools.partial(sys.setrecursionlimit, sys.getrecursionlimit()),
        functools.partial(random.setstate, random.getstate()),
        *(functools.partial(setattr, sys, name, value) for name, value in streams.items()),
    ]


def _of_numpy() -> list[Undo]:
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return []
    return [
        functools.partial(numpy.random.set_state, numpy.random.get_state()),
        functools.partial(numpy.seterr, **numpy.geterr()),
    ]


def _of_torch() -> list[Undo]:
    """Return what puts torch's switches back, or to their defaults where it was not loaded before."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return [_default_torch]
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    switches = [(cudnn, name) for name in ("enabled", "benchmark", "deterministic")]
    undo: list[Undo] = [functools.partial(setattr, holder, name, getattr(holder, name)) for holder, name in switches]
    undo += [
        functools.partial(torch.set_default_dtype, torch.get_default_dtype()),
        functools.partial(torch.set_grad_enabled, torch.is_grad_enabled()),
        functools.partial(_set_threads, torch, torch.get_num_threads()),
        functools.partial(torch.use_deterministic_algorithms, strict, warn_only=warn),
        functools.partial(torch.autograd.set_detect_anomaly, torch.is_anomaly_enabled()),
        functools.partial(torch.set_rng_state, torch.get_rng_state()),
        functools.partial(_set_device, torch, torch.get_default_device()),
    ]
    with contextlib.suppress(RuntimeError):  # the newer switches are in use: torch refuses to read the older ones
        undo.append(functools.partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()))
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        undo.append(functools.partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return undo


def _default_torch() -> None:
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.set_flush_denormal(False)
        _set_device(torch, torch.device("cpu"))


def _set_threads(torch: Any, count: int) -> None:
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _set_device(torch: Any, device: Any) -> None:
    """Set torch's default device; setting it where it is right already would cost every later call."""
    if torch.get_default_device() != device:
        torch.set_default_device(None if device.type == "cpu" else device)


def _originals() -> list[tuple[ModuleType | type, dict[str, Any]]]:
    """Return the functions and classes of the guarded libraries' modules, and the methods of their classes."""
    found: list[tuple[ModuleType | type, dict[str, Any]]] = []
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in _GUARDED or not isinstance(module, ModuleType):
            continue
        held = {k: v for k, v in list(vars(module).items()) if callable(v)}
        found.append((module, held))
        classes = [v for v in held.values() if isinstance(v, type) and v.__module__ == name]
        found += [(c, {k: v for k, v in list(vars(c).items()) if callable(v)}) for c in classes]
    return found


def _put_back(originals: list[tuple[ModuleType | type, dict[str, Any]]]) -> None:
    """Put back what was exchanged for something that is not of the guarded libraries themselves."""
    for owner, held in originals:
        now = vars(owner)
        for name, original in held.items():
            found = now.get(name, _MISSING)
            if found is not original and (found is _MISSING or not _is_of_libraries(found)):
                with contextlib.suppress(AttributeError, TypeError):  # of a type written in C: nobody can have set it
                    setattr(owner, name, original)


def _is_of_libraries(value: Any) -> bool:
    """Tell whether a function, or the class of a callable object, is written in a guarded library."""
    while isinstance(value, functools.partial | staticmethod | classmethod):
        value = value.func if isinstance(value, functools.partial) else value.__func__
    kind = value if isinstance(value, type) else type(value)
    name = kind.__module__
    if isinstance(value, FunctionType):  # whatever it says that it wraps
        name = str(value.__globals__.get("__name__"))
    elif isinstance(value, BuiltinFunctionType):
        name = value.__module__ or _GUARDED[0]
    return name.partition(".")[0] in _GUARDED
