"""The contracts of everything that a file of one's own registers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.contracts.attack import AttackContract
from bench.contracts.contract import Promise, Verdict, verdicts
from bench.contracts.defense import DefenseContract
from bench.contracts.evaluation import EvaluationContract
from bench.core import discovery, registry
from bench.core.errors import UsageError
from bench.core.process_state import process_state_kept
from bench.core.records import Registered
from bench.core.user_code import origin_of, origin_of_file


def contracts_of(path: Path) -> Iterator[tuple[str, Iterator[Verdict]]]:
    """Yield each entry of a file as a title, with the verdicts on its promises.

    Args:
        path: the file; it is imported, and runs with full trust.

    Yields:
        E.g. "defense my_defense", and a verdict per promise as it is tried.

    Raises:
        UsageError: the file does not import, or registers nothing that can be tried alone.
    """
    origin = origin_of_file(discovery.include(path))
    promised = [(title, promises) for title, entry, promises in _all() if origin_of(entry.function) == origin]
    if not promised:
        raise UsageError(
            f"check: expected a file that registers a defense, an attack, or an evaluation that reads no other cells, "
            f"got none in {path.name}. `python -m bench new defense NAME` writes one."
        )
    for title, promises in promised:
        with process_state_kept():
            yield title, verdicts(promises)


def _all() -> Iterator[tuple[str, Registered, Mapping[str, Promise]]]:
    """Yield title, entry and promises of everything that is registered; nothing is tried yet."""
    for defense in registry.defenses:
        if defense.handed_over is None:
            yield f"defense {defense.name}", defense, DefenseContract(defense).promises
    for attack in registry.attacks:
        yield f"attack {attack.name}", attack, AttackContract(attack).promises
    for evaluation in registry.evaluations:
        if evaluation.attack is None and not evaluation.needs:
            yield f"evaluation {evaluation.name}", evaluation, EvaluationContract(evaluation).promises
