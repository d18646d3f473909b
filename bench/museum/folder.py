"""Find the exhibits by looking into a folder: one file each, nothing to register."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from bench.core.errors import UsageError
from bench.core.hashing import sha256_of
from bench.museum.exhibit import Exhibit, FaultyAttack

CHECKOUT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = CHECKOUT / "tests" / "trust" / "museum"
DATA: Final = CHECKOUT.parent / "shared" / "data"  # real images and foreign networks, beside the checkout


@dataclass(frozen=True, slots=True)
class Museum:
    """What a folder holds.

    Attributes:
        exhibits: networks.
        attacks: with a fault each, and without.
    """

    exhibits: tuple[Exhibit, ...]
    attacks: tuple[FaultyAttack, ...]


def load_museum(folder: Path = FOLDER) -> Museum:
    """Return what every Python file of a folder declares, in the order of the files' names.

    Found are a module's variables, and the entries of tuples among them. Files whose names begin with an underscore
    are left out.

    Args:
        folder: of the files; by default the checkout's own.

    Raises:
        UsageError: there is no such folder (a wheel has no tests), or two exhibits have one name.
    """
    if not folder.is_dir():
        raise UsageError(
            f"doctor --museum: expected a folder of exhibits, got {folder.name!r}, which is not there. A wheel has "
            "none: run it from a checkout, or give --exhibits DIR."
        )
    exhibits: dict[str, Exhibit] = {}
    attacks: dict[str, FaultyAttack] = {}
    for path in sorted(folder.glob("[!_]*.py")):
        for thing in _declared(vars(_load(path)).values()):
            known, name = (exhibits, thing.name) if isinstance(thing, Exhibit) else (attacks, thing.fault)
            if name in known:
                raise UsageError(f"{path.name}: expected a new name, got a second {name!r}. Rename it.")
            known[name] = thing  # type: ignore[index, assignment]
    return Museum(tuple(exhibits.values()), tuple(attacks.values()))


def _declared(values: Iterable[object]) -> Iterator[Exhibit | FaultyAttack]:
    for value in values:
        for thing in value if isinstance(value, tuple) else (value,):
            if isinstance(thing, Exhibit | FaultyAttack):
                yield thing


def _load(path: Path) -> ModuleType:
    """Import a file under a name of its own, so that exhibits may be called like other modules."""
    name = f"bench_exhibit_{path.stem}_{sha256_of(str(path.resolve()).encode())[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
