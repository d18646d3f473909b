"""Robust accuracy: every registered attack becomes an evaluation per norm; the verdict is ours, not the attack's."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Final

from torch import Tensor, nn

from bench.attacks.core.adaptive import worst_case_with
from bench.attacks.core.draws import RandomisedModel
from bench.core import registry
from bench.core.errors import UsageError, did_you_mean
from bench.core.ranges import Interval
from bench.core.records import Adaptive, Attack, Column, Evaluation
from bench.measuring.attack_call import CONFIRM, Search
from bench.measuring.attack_columns import describe_columns, robust_columns
from bench.measuring.budgets import DEFAULT_EPS

PEERS: Final = "bench.attacks.peers"


def register(attack: Attack) -> None:
    """Register `<attack>_<norm>` for every norm of an attack."""
    for norm in attack.norms:
        registry.evaluations.add(evaluation_of(attack, norm))


def evaluation_of(attack: Attack, norm: str) -> Evaluation:
    """Return the evaluation that measures robust accuracy under an attack in one norm."""
    peers = peers_of(attack.name)
    return Evaluation(
        name=f"{attack.name}_{norm}",
        function=_function(attack, norm),
        source=attack.source,
        version=attack.version,
        parameters=_parameters(attack, norm, peers),
        columns=_columns(attack, norm, peers),
        chunk=attack.chunk,
        attack=attack,
        peers=peers,
        adaptive=attack.adaptive,
        gradients=attack.gradients,
        tracks=("deterministic", "randomised"),
    )


def _columns(attack: Attack, norm: str, peers: Sequence[str]) -> dict[str, Column]:
    """Return every column by pattern of its name: ours, the attack's extra ones, and those of its peers."""
    prefix, params = f"{attack.name}_{norm}", {"norm": norm, "attack": attack.name}
    columns = describe_columns(
        attack.name, norm, attack.source, prefix, ranks=attack.ranks, csv_interval=attack.csv_interval
    )
    for name, column in attack.extra.items():
        columns[f"{prefix}_{{eps}}_{name}"] = replace(
            column, source=column.source or attack.source, params={**params, **column.params}
        )
    for peer in peers:
        columns |= describe_columns(f"{peer}'s {attack.name}", norm, attack.source, f"{prefix}_{peer}")
    return columns


def _parameters(attack: Attack, norm: str, peers: Sequence[str]) -> dict[str, inspect.Parameter]:
    """Return what a user may set: budgets, how they are searched, reference implementation, the attack's own."""
    kind = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter("eps", kind, default=DEFAULT_EPS[norm], annotation=Sequence[float]),
        inspect.Parameter("search", kind, default="fp32", annotation=Search),
        inspect.Parameter("confirm", kind, default=CONFIRM, annotation=Annotated[float, Interval(ge=0, le=1)]),
    ]
    if peers:
        added.append(inspect.Parameter("peer", kind, default="", annotation=str))
    return {p.name: p for p in added} | {name: p for name, p in attack.parameters.items() if name != "eps"}


def _function(entry: Attack, norm: str) -> Callable[..., dict[str, Tensor | list[str]]]:
    """Return the function of the evaluation of one attack and norm."""
    name = f"{entry.name}_{norm}"

    def run(
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        seed: int = 0,
        adaptive: Adaptive | None = None,
        eps: Sequence[float] = DEFAULT_EPS[norm],
        search: Search = "fp32",
        confirm: Annotated[float, Interval(ge=0, le=1)] = CONFIRM,
        peer: str = "",
        **arguments: object,
    ) -> dict[str, Tensor | list[str]]:
        attack, prefix, extra = entry.function, name, entry.extra
        if isinstance(model, RandomisedModel) and not peer:
            arguments = {**arguments, **entry.randomised}
        if peer:
            attack, prefix, extra = peer_attack(entry.name, peer), f"{name}_{peer}", {}
            arguments = _shared(attack, entry, peer, arguments)
        elif adaptive is not None and entry.adaptive:
            attack = worst_case_with(attack, adaptive)
        return robust_columns(
            model,
            x,
            y,
            attack=attack,
            prefix=prefix,
            eps=eps,
            norm=norm,
            seed=seed,
            arguments=arguments,
            extra=extra,
            search=search,
            confirm=confirm,
        )

    run.__name__ = run.__qualname__ = name
    run.__doc__ = f"Robust accuracy under {entry.name} ({norm}).\n\n{entry.description}"
    return run


@functools.cache
def peers_of(attack: str) -> tuple[str, ...]:
    """Return the names of the modules in attacks/peers that offer an attack; importing them loads no library."""
    package = importlib.import_module(PEERS)
    names = [info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_")]
    return tuple(name for name in sorted(names) if hasattr(importlib.import_module(f"{PEERS}.{name}"), attack))


def peer_attack(attack: str, peer: str) -> Callable[..., Tensor]:
    """Return another library's implementation of an attack.

    Raises:
        UsageError: we wrap no such attack of that library.
    """
    known = peers_of(attack)
    if peer not in known:
        raise UsageError(f"{attack}: expected peer among {list(known)}, got {peer!r}. {did_you_mean(peer, known)}")
    return getattr(importlib.import_module(f"{PEERS}.{peer}"), attack)


def _shared(
    attack: Callable[..., Tensor], entry: Attack, peer: str, arguments: Mapping[str, object]
) -> dict[str, object]:
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


registry.attacks.subscribe(register)
