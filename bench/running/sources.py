"""Hash the source that a cell's result depends on.

Counted are the syntax trees of modules, so that comments, docstrings and layout are free to change, and the bytes of
data files. From the functions that compute a result, imports are followed as written, those inside functions
included. Of our own code everything counts but `NOT_COUNTED`. Of third parties' code everything counts that importing
their file or plug-in has loaded, however it was imported, and what it read or named while it was imported; of a
defense also what its factory loads, reads and names when it builds the network (`untrained`, `file_reads`).

Not seen: data that other functions read at run time under a computed name, modules that they import under a computed
name, files that a library opens natively under a name that it computes itself, and environment variables;
`depends_on` of `@bench.defense`, `@bench.attack` and `@bench.evaluation` names such files.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Final

from bench.core import user_code
from bench.core.hashing import sha256, sha256_of
from bench.running.module_files import file_of, find
from bench.running.source_syntax import read_source

# Ours, and without an effect on a result. Names with a dot at the end are whole packages.
NOT_COUNTED: Final = (
    # What the user types and reads.
    "bench.__main__",
    "bench.api.",
    "bench.cli.",
    "bench.contracts.",
    "bench.museum.",
    "bench.reports.",
    "bench.core.version",
    # Which cell is computed when, where it is stored, what is registered, what is said meanwhile.
    "bench.running.",
    "bench.store.",
    "bench.packs.",
    "bench.core.computing_time",
    "bench.core.gpu_programs",
    "bench.core.cycles",
    "bench.core.errors",
    "bench.core.file_reads",
    "bench.core.cache_folder",
    "bench.core.files",
    "bench.core.hashing",
    "bench.core.late_imports",
    "bench.core.process_state",
    "bench.core.printed",
    "bench.core.processes",
    "bench.core.decorators",
    "bench.core.direct_call",
    "bench.core.discovery",
    "bench.core.registry",
    "bench.core.streams",
    "bench.core.user_code",
    "bench.training.flops",
    # What they return is in the key itself: arguments, recipes, and the fingerprint of the images.
    "bench.config.",
    "bench.data.arrays",
    "bench.data.cache",
    "bench.data.catalog",
    "bench.data.download",
    "bench.data.embedded",
    "bench.data.image_folder",
    "bench.data.info",
    "bench.data.npz",
    "bench.data.own",
    "bench.data.own_layouts",
    "bench.data.parquet",
    "bench.data.reading",
    "bench.data.torchvision_files",
    # Made from stored tables.
    "bench.core.stats.",
    "bench.trust.accuracies",
    "bench.trust.assess",
    "bench.trust.checks.",
    "bench.trust.evidence",
    "bench.trust.grade",
    "bench.trust.records",
    "bench.trust.registry",
    "bench.trust.verdicts",
    # Planted truth, the museum and the audit of a board: commands of their own, not evaluations.
    "bench.trust.detection",
    "bench.trust.detection_curves",
    "bench.trust.maxout",
    "bench.trust.museum",
    "bench.trust.planted",
    "bench.trust.risk_audit",
)

# Third parties' imports of these are not part of the key beyond torch's version: our own code needs them too.
_REQUIREMENTS: Final = frozenset(
    {"torch", "torchvision", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "pyarrow"}
)

_LARGE: Final = 16 * 2**20  # bytes; smaller files are read each time


def sources(
    functions: Iterable[Callable[..., object]],
    depends_on: Iterable[Path] = (),
    called: user_code.LoadedCode | None = None,
) -> dict[str, str]:
    """Return name to hash of everything that the functions' results depend on.

    Args:
        functions: what is called to compute a result.
        depends_on: files that their authors name in addition.
        called: what a call of one of them has loaded and read; None: not recorded.

    Returns:
        Ours by module ("bench.attacks.fab"), third parties' by file ("my_defense.py", "pkg/__init__.py"), data by
        path relative to the folder of the included file or of the plug-in's package ("tables/a.npz"; outside of it
        ".../tables/a.npz"); of a third party's library, its version. No absolute path. Files of one name are one
        entry, their hashes with spaces between, in the order of their paths.
    """
    return _walked(functions, depends_on, called).result()


def third_partys(
    functions: Iterable[Callable[..., object]],
    depends_on: Iterable[Path] = (),
    called: user_code.LoadedCode | None = None,
) -> frozenset[Path]:
    """Return the third parties' files among what `sources` hashes: modules that are no library's, and data.

    Args:
        functions: what is called to compute a result.
        depends_on: files that their authors name in addition.
        called: what a call of one of them has loaded and read; None: not recorded.
    """
    return frozenset(_walked(functions, depends_on, called).third_partys)


def _walked(
    functions: Iterable[Callable[..., object]], depends_on: Iterable[Path], called: user_code.LoadedCode | None
) -> _Walk:
    walk, functions = _Walk(), list(functions)
    roots = [root for function in functions if (root := walk.add(function)) is not None]
    if called is not None:
        walk.add_record(called, called.root or next(iter(roots), None))
    for path in depends_on:
        walk.note_data(path, next((root for root in roots if path.is_relative_to(root)), None))
    return walk


class RememberedSources:
    """`sources`, each answer kept: for the cells of one plan, during which the files are taken not to change."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], dict[str, str]] = {}
        self._asked: list[object] = []  # kept alive, so that no other object gets the identity of one

    def __call__(
        self,
        functions: Iterable[Callable[..., object]],
        depends_on: Iterable[Path] = (),
        called: user_code.LoadedCode | None = None,
    ) -> dict[str, str]:
        """Return what `sources` returns for the same arguments; the answer is shared and is not to be changed.

        Args:
            functions: what is called to compute a result.
            depends_on: files that their authors name in addition.
            called: what a call of one of them has loaded and read; None: not recorded.
        """
        functions, files = tuple(functions), tuple(depends_on)
        asked = (tuple(map(id, functions)), files, id(called))
        if asked not in self._found:
            self._found[asked] = sources(functions, files, called)
            self._asked += [functions, called]
        return self._found[asked]


def data_digest(path: Path) -> str:
    """Return the SHA-256 of a data file; a large one is read again only if its size or a time of change differs."""
    found = path.stat()
    if found.st_size < _LARGE:
        return sha256(path)
    return _large_digest(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@functools.lru_cache(maxsize=64)
def _large_digest(path: Path, *_state: int) -> str:
    return sha256(path)


def counts(module: str) -> bool:
    """Tell whether a module of ours is part of a key when a cell's functions reach it."""
    return module != "bench" and not any(
        module == name.rstrip(".") or (name.endswith(".") and module.startswith(name)) for name in NOT_COUNTED
    )


class _Walk:
    """The modules reached so far, and their hashes by name and file.

    Attributes:
        third_partys: their files among these.
    """

    def __init__(self) -> None:
        self.third_partys = set[Path]()
        self._hashes: dict[str, dict[str, str]] = {}
        self._seen: set[tuple[str, Path]] = set()

    def add(self, function: Callable[..., object]) -> Path | None:
        """Add everything that a function depends on; return the folder that its data files are named relative to."""
        function = _unwrapped(function)
        name, code = function.__module__, getattr(function, "__code__", None)
        record = user_code.loaded_code(name, code.co_filename) if code else None
        source = file_of(sys.modules.get(name))
        if record is not None:
            self.add_record(record, record.root)
            return record.root
        if source is not None:
            self._visit(name, source, None, None)
            return None if _is_ours(name) else user_code.module_root(name, source)
        if code is not None:
            self._note(f"{name}.{function.__qualname__}", "", sha256_of(_code_text(code).encode()))
        return None

    def add_record(self, record: user_code.LoadedCode, root: Path | None) -> None:
        """Add the modules and data files of a record, the files named relative to `root`."""
        for module, file in record.modules.items():
            self._visit(module, file, record, root)
        for file in record.files:
            self.note_data(file, root)

    def note_data(self, path: Path, root: Path | None) -> None:
        """Add a data file, named relative to `root` where it is below it, else by its folder and name."""
        path = path.resolve()
        inside = root is not None and path.is_relative_to(root)
        name = path.relative_to(root).as_posix() if root is not None and inside else f".../{'/'.join(path.parts[-2:])}"
        self._note(name, str(path), data_digest(path))
        self.third_partys.add(path)

    def _note(self, name: str, file: str, digest: str) -> None:
        self._hashes.setdefault(name, {})[file] = digest

    def result(self) -> dict[str, str]:
        """Return name to hash, sorted; the hashes of several files of one name in the order of their paths."""
        return {
            name: " ".join(digest for _, digest in sorted(found.items()))
            for name, found in sorted(self._hashes.items())
        }

    def _visit(self, name: str, file: Path, record: user_code.LoadedCode | None, root: Path | None) -> None:
        ours = _is_ours(name)
        if (name, file) in self._seen or (ours and not counts(name)):
            return
        self._seen.add((name, file))
        if not ours:
            self.third_partys.add(file.resolve())
        module = read_source(file.read_bytes(), name, file.name == "__init__.py")
        root = root or user_code.module_root(name, file)
        self._note(name if ours else _label(name, file), str(file), module.digest)
        for path in _data_files(module.strings, file.parent):
            if ours:
                self._note(f"{name}/{path.name}", str(path), sha256(path))
            else:
                self.note_data(path, root)
        imported = [*_parents(name), *module.imports]
        if not ours:
            imported += _values_from(record.loaded.get(name) if record else sys.modules.get(name), file)
        for other in imported:
            for parent in (*_parents(other), other):
                self._follow(parent, record, None if ours else root, versions=not ours)

    def _follow(self, name: str, record: user_code.LoadedCode | None, root: Path | None, *, versions: bool) -> None:
        if _is_ours(name):
            if counts(name) and (found := _our_file(name)):
                self._visit(name, found, None, None)
            return
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in _REQUIREMENTS:
            return
        path = find(name, record)
        if path is None:
            return
        if user_code.is_library(name, path) and (version := _version(top)):
            if versions:
                self._note(top, "", version)
        else:
            self._visit(name, path, record, root)


def _is_ours(name: str) -> bool:
    return name == "bench" or name.startswith("bench.")


def _unwrapped(function: Callable[..., object]) -> Callable[..., object]:
    """Return the plain function inside partial objects, decorators and callable objects."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    return function if hasattr(function, "__qualname__") else type(function)


def _label(name: str, file: Path) -> str:
    folders = name.split(".")
    return "/".join([*folders, file.name] if file.stem == "__init__" else [*folders[:-1], file.name])


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


@functools.cache
def _our_file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


@functools.cache
def _version(top: str) -> str | None:
    """Return the version of the distribution that a library's module comes from, None for a loose file."""
    found = _distributions().get(top)
    return importlib.metadata.version(found[0]) if found else None


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _values_from(module: ModuleType | None, file: Path) -> list[str]:
    """Return the modules that a loaded module's global values are, or come from."""
    if file_of(module) != file:
        return []
    names = [
        v.__name__ if isinstance(v, ModuleType) else (v if isinstance(v, type | FunctionType) else type(v)).__module__
        for v in vars(module).values()
    ]
    return [name for name in dict.fromkeys(names) if name in sys.modules]


def _data_files(strings: Iterable[str], folder: Path) -> Iterator[Path]:
    """Yield the files that strings of a module name: beside it, in folders that they name too, or by a full path."""
    strings, folders = tuple(strings), [folder.resolve()]
    folder = folders[0]
    for found in folders:
        folders += [
            path
            for text in strings
            if found.is_relative_to(folder) and (path := (found / text).resolve()).is_dir() and path not in folders
        ]
        for text in strings:
            path = found / text
            if path.suffix not in ("", ".py") and path.is_file():
                yield path


def _code_text(code: CodeType) -> str:
    """Return a function's byte code and constants as text, for code that was never in a file."""
    constants = [_code_text(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return repr((code.co_code, code.co_names, constants))
