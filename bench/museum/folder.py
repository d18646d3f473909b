"""Find the exhibits by looking into a folder: one file each, nothing to register."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

from bench.core.errors import UsageError
from bench.core.hashing import sha256_of
from bench.museum.exhibit import Exhibit

CHECKOUT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = CHECKOUT / "tests" / "trust" / "museum"
DATA: Final = CHECKOUT.parent / "shared" / "data"  # real images and foreign networks, beside the checkout


def load_exhibits(folder: Path = FOLDER) -> tuple[Exhibit, ...]:
    """Return the exhibits of every Python file of a folder, in the order of the files' names.

    An exhibit is a module's variable, or an entry of a tuple that is one. Files whose names begin with an underscore
    are left out.

    Args:
        folder: of the files; by default the checkout's own.

    Raises:
        UsageError: there is no such folder (a wheel has no tests), or two exhibits have one name.
    """
    if not folder.is_dir():
        raise UsageError(
            "doctor --museum: expected the exhibits in tests/trust/museum of a checkout, got an installed package "
            "without them. Run it from a checkout of the repository."
        )
    found: dict[str, Exhibit] = {}
    for path in sorted(folder.glob("[!_]*.py")):
        for exhibit in _exhibits(vars(_load(path)).values()):
            if exhibit.name in found:
                raise UsageError(f"{path.name}: expected a new exhibit, got a second {exhibit.name!r}. Rename it.")
            found[exhibit.name] = exhibit
    return tuple(found.values())


def _exhibits(values: Iterable[object]) -> Iterator[Exhibit]:
    for value in values:
        if isinstance(value, Exhibit):
            yield value
        elif isinstance(value, tuple):
            yield from (entry for entry in value if isinstance(entry, Exhibit))


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
