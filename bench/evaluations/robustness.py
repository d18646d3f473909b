"""Robust accuracy: every registered attack becomes an evaluation per norm; the verdict is ours, not the attack's."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from bench.attacks.core.adaptive import worst_case_with
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import RESERVED, Attack, Column
from bench.measuring.attack_columns import DEFAULT_EPS, Search, describe_columns, robust_columns
from bench.models import registry


def register_all() -> None:
    """Register `<attack>_<norm>` for every registered attack and norm. May be called again at any time."""
    for entry in registry.attacks:
        for norm in entry.norms:
            _register(entry, norm)


def _register(entry: Attack, norm: str) -> None:
    peers, prefix = _peers_of(entry.name), f"{entry.name}_{norm}"
    columns = describe_columns(
        entry.name, norm, entry.source, prefix, _constant(entry, "RANKS", 0), _constant(entry, "CSV_INTERVAL", True)
    )
    for fact, (kind, words) in _constant(entry, "EXTRA", {}).items():
        columns[f"{prefix}_{{eps}}_{fact}"] = Column(
            words,
            kind=kind,
            aggregate="sum",
            source=entry.source,
            params={"norm": norm, "attack": entry.name},
            shown=False,
        )
    for peer in peers:
        columns |= describe_columns(f"{peer}'s {entry.name}", norm, entry.source, f"{entry.name}_{norm}_{peer}")
    chunk = _constant(entry, "CHUNK", 500)
    registry.evaluation(source=entry.source, columns=columns, version=entry.version, chunk=chunk)(
        _as_evaluation(entry, norm, peers)
    )


def _constant(entry: Attack, name: str, default: Any) -> Any:
    """Return a constant of the module that an attack is written in: CHUNK, EXTRA, ADAPTIVE."""
    return getattr(sys.modules.get(entry.function.__module__), name, default)


def _as_evaluation(entry: Attack, norm: str, peers: tuple[str, ...]) -> Callable[..., dict[str, Any]]:
    """Return the evaluation function of one attack and norm; `__wrapped_attack__` is the attack itself."""
    name = f"{entry.name}_{norm}"

    def run(model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0, **arguments: Any) -> dict[str, Any]:
        eps = arguments.pop("eps", DEFAULT_EPS[norm])
        search, peer = arguments.pop("search", "fp32"), arguments.pop("peer", "")
        attack, prefix, extra = entry.function, name, _constant(entry, "EXTRA", {})
        if peer:
            attack, prefix, extra = peer_attack(entry.name, peer), f"{name}_{peer}", {}
            arguments = _shared(attack, entry, peer, arguments)
        elif getattr(model, "adaptive", None) is not None and _constant(entry, "ADAPTIVE", False):
            attack = worst_case_with(attack, model.adaptive)  # type: ignore[arg-type]
        return robust_columns(
            model, x, y, attack=attack, prefix=prefix, eps=eps, norm=norm, seed=seed, arguments=arguments, extra=extra,
            search=search,
        )  # fmt: skip

    own = [
        p
        for p in inspect.signature(entry.function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in RESERVED | {"eps"}
    ]
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [inspect.Parameter("eps", kind, default=DEFAULT_EPS[norm], annotation="Sequence[float]"),
             inspect.Parameter("search", kind, default="fp32", annotation=Search)]  # fmt: skip
    if peers:
        added.append(inspect.Parameter("peer", kind, default="", annotation="str"))
    fixed = [p for p in inspect.signature(run).parameters.values() if p.kind is not p.VAR_KEYWORD]
    run.__signature__ = inspect.Signature([*fixed, *added, *own])  # type: ignore[attr-defined]
    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"Robust accuracy under {entry.name} ({norm}).\n\n{entry.description}"
    run.__wrapped_attack__ = entry.function  # type: ignore[attr-defined]
    run.__peers__ = peers  # type: ignore[attr-defined]
    return run


@functools.cache
def _peers_of(attack: str) -> tuple[str, ...]:
    """Return the names of the modules in attacks/peers that offer an attack; importing them loads no library."""
    package = importlib.import_module("bench.attacks.peers")
    names = [info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")]
    return tuple(
        name for name in sorted(names) if hasattr(importlib.import_module(f"{package.__name__}.{name}"), attack)
    )


def peer_attack(attack: str, peer: str) -> Callable[..., Tensor]:
    """Return another library's implementation of an attack.

    Raises:
        UsageError: we wrap no such attack of that library.
    """
    if peer not in _peers_of(attack):
        known = _peers_of(attack)
        raise UsageError(f"{attack}: expected peer among {list(known)}, got {peer!r}. {did_you_mean(peer, known)}")
    return getattr(importlib.import_module(f"bench.attacks.peers.{peer}"), attack)


def _shared(attack: Callable[..., Any], entry: Attack, peer: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that the peer's function takes.

    Raises:
        UsageError: an argument that the peer lacks was set to something other than our default.
    """
    taken = inspect.signature(attack).parameters
    for name, value in arguments.items():
        plain = tuple(value) if isinstance(value, list) else value  # a suite file has no tuples
        if name not in taken and plain != entry.hyperparameters[name]:
            raise UsageError(
                f"{entry.name}: expected arguments that {peer} has too, got {name}={value!r}. "
                "Leave it out for this peer."
            )
    return {name: value for name, value in arguments.items() if name in taken}
