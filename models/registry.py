"""The registries of defenses, attacks and evaluations, their decorators, and how entries are found.

A decorated function is returned unchanged; its name is the key. Entries come from four places: a file in
`models/defenses/`, `attacks/` or `bench/evaluations/`; an entry point of an installed package (groups
`bench.defenses`, `bench.attacks`, `bench.evaluations`); `--include FILE.py`; a decorator in running code.
Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Adaptive, Attack, Column, Defense, Evaluation, Recipe, Registered

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound=Registered)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Registry(Generic[T]):
    """Names to entries. Refuses duplicates; suggests the nearest name for an unknown one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, entry: T) -> None:
        """Register an entry.

        Raises:
            UsageError: bad name, no source, or the name is taken by a function of another file.
        """
        if not NAME.fullmatch(entry.name):
            raise UsageError(f"{self.kind} {entry.name!r}: expected a name matching {NAME.pattern}. Rename it.")
        if not entry.source.strip():
            raise UsageError(f'{self.kind} {entry.name!r}: expected source="paper, section", got nothing. Name it.')
        old = self._entries.get(entry.name)
        if old and _file(old.function) != _file(entry.function):
            raise UsageError(
                f"{self.kind} {entry.name!r}: expected a new name, got one that {_file(old.function)} has "
                f"registered. Rename the one in {_file(entry.function)}."
            )
        self._entries[entry.name] = entry

    def get(self, name: str) -> T:
        """Return the entry of that name.

        Raises:
            UsageError: no such entry; the message names the nearest one.
        """
        discover()
        if name not in self._entries:
            hint = did_you_mean(name, self._entries)
            raise UsageError(f"{self.kind}: expected a registered {self.kind}, got {name!r}. {hint}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        discover()
        return name in self._entries

    def __iter__(self) -> Iterator[T]:
        discover()
        return iter(sorted(self._entries.values(), key=lambda e: e.name))


defenses: Registry[Defense] = Registry("defense")
attacks: Registry[Attack] = Registry("attack")
evaluations: Registry[Evaluation] = Registry("evaluation")


def defense(
    *,
    source: str,
    recipe: Recipe | None = None,
    version: int = 1,
    adaptive: Adaptive | None = None,
    bibtex: str = "",
) -> Callable[[F], F]:
    """Register a defense: `f(num_classes, in_shape, backbone, *, <hyper-parameters>) -> nn.Module`.

    Args:
        source: paper and place, e.g. "Srinivas et al. 2022, eq. (5)".
        recipe: what differs from the suite's recipe, usually the loss.
        version: raise it by hand when the method changes; its cells are then computed anew.
        adaptive: the author's own attack on the defense.
        bibtex: how to cite it.

    Raises:
        UsageError: the function's signature is not the one above.
    """

    def register(function: F) -> F:
        _check_signature(function, 3, "num_classes, in_shape, backbone")
        entry = Defense(function.__name__, function, source, version, recipe or Recipe(), adaptive, bibtex)
        defenses.add(entry)
        return function

    return register


def attack(*, source: str, version: int = 1, norms: tuple[str, ...] = ("l2", "linf")) -> Callable[[F], F]:
    """Register an attack: `f(model, x, y, *, eps, norm, seed, …) -> x_adv`, both (B, C, H, W) in [0, 1].

    Raises:
        UsageError: the function's signature is not the one above.
    """

    def register(function: F) -> F:
        _check_signature(function, 3, "model, x, y")
        attacks.add(Attack(function.__name__, function, source, version, norms))
        return function

    return register


def evaluation(
    *,
    source: str,
    columns: Mapping[str, Column],
    version: int = 1,
    chunk: int = 500,
    summary: Callable[[Any, Any], dict[str, Any]] | None = None,
) -> Callable[[F], F]:
    """Register an evaluation: `f(model, x, y, *, seed, …) -> {column: one value per example}`.

    Args:
        source: paper and place, or the page of the protocol.
        columns: every column that it returns, by pattern of its name.
        version: raise it by hand when the meaning changes.
        chunk: images per stored chunk (at most 500).
        summary: `summary(model, device) -> dict` of plain data about the model as a whole, if there is any.

    Raises:
        UsageError: the function's signature is not the one above.
    """

    def register(function: F) -> F:
        _check_signature(function, 3, "model, x, y")
        entry = Evaluation(function.__name__, function, source, version, dict(columns), min(chunk, 500), summary)
        evaluations.add(entry)
        return function

    return register


def _check_signature(function: Callable[..., Any], positional: int, expected: str) -> None:
    """Refuse a function whose positional arguments are not the expected ones, or whose rest is not keyword-only."""
    parameters = list(inspect.signature(function).parameters.values())
    kinds = [p.kind for p in parameters]
    positional_kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = sum(k in positional_kinds for k in kinds)
    if found != positional or inspect.Parameter.VAR_POSITIONAL in kinds:
        raise UsageError(
            f"{function.__name__} in {_file(function)}: expected arguments ({expected}, *, keyword-only …), "
            f"got ({', '.join(p.name for p in parameters)}). Put a `*` before the hyper-parameters."
        )


def _file(function: Callable[..., Any]) -> str:
    return getattr(inspect.unwrap(function), "__code__", function).co_filename  # type: ignore[union-attr]


_discovered = False


def discover() -> None:
    """Import every shipped and installed entry, once. Called by the registries themselves."""
    global _discovered
    if _discovered:
        return
    _discovered = True
    for package in ("bench.models.defenses", "bench.attacks", "bench.evaluations"):
        for module in _modules(package):
            if package == "bench.attacks":
                _register_plain_attack(module)
    for group in ("bench.defenses", "bench.attacks", "bench.evaluations"):
        for point in importlib.metadata.entry_points(group=group):
            point.load()
    from bench.evaluations import robustness

    robustness.register_all()


def _modules(package: str) -> Iterator[ModuleType]:
    """Import and yield the public modules of a package, sub-packages left out."""
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not info.ispkg and not info.name.startswith("_"):
            yield importlib.import_module(f"{package}.{info.name}")


def _register_plain_attack(module: ModuleType) -> None:
    """Register `attacks/<name>.py`'s function `<name>`; SOURCE, VERSION and NORMS are the module's constants.

    Attacks import only torch, so the shipped ones carry their facts as constants instead of our decorator.
    """
    name = module.__name__.rpartition(".")[2]
    function = getattr(module, name, None)
    if inspect.isfunction(function) and function.__module__ == module.__name__ and hasattr(module, "SOURCE"):
        norms = getattr(module, "NORMS", ("l2", "linf"))
        attack(source=module.SOURCE, version=getattr(module, "VERSION", 1), norms=norms)(function)


def include(path: str | Path) -> ModuleType:
    """Import a user's file, so that its decorators register. The file is code and runs with full trust.

    Raises:
        UsageError: no such file, or it fails to import.
    """
    discover()
    path = Path(path).resolve()
    if not path.is_file():
        raise UsageError(f"--include: expected a Python file, got {str(path)!r}, which is none. Check the path.")
    name = f"bench_include_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--include: expected a file ending in .py, got {str(path)!r}. Rename it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UsageError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            f"--include {path}: expected a file that imports, got {type(error).__name__}: {error}. "
            f"Try `python {path.name}` beside it."
        ) from error
    from bench.evaluations import robustness

    robustness.register_all()
    return module
