"""Import code that is not ours, included files and plug-ins, and record what the import loaded.

The record is what a cell's key hashes: modules that were imported in any way (also by `importlib.import_module`) and
files that were opened on the way, e.g. a table of constants.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

from bench.core.errors import UsageError
from bench.core.file_reads import LIBRARIES, is_data, recorded_reads
from bench.core.hashing import sha256, sha256_of
from bench.core.late_imports import refuse_late_imports
from bench.core.printed import printed_to_stderr
from bench.core.process_state import process_state_kept
from bench.core.processes import TRIAL_SECONDS, deadly
from bench.core.text import described

_PREFIX = "bench_include_"


@dataclass(frozen=True)
class Origin:
    """Where third parties' code comes from, so that another process can load it.

    Attributes:
        kind: "file" of `--include`, or "plug-in".
        name: the file's absolute path, or the distribution.
        digest: SHA-256 over those of the file and of the modules that importing it has loaded; "" of a plug-in.
    """

    kind: Literal["file", "plug-in"]
    name: str
    digest: str = ""


@dataclass
class LoadedCode:
    """What importing an included file, or the entry points of a distribution, has loaded.

    Attributes:
        folder: where its helper modules are looked for first; None: only on `sys.path`.
        root: data files are named relative to it: the included file's folder, or the one that a plug-in's package is
            in; None: unknown.
        origin: where it was loaded from; None: it is the record of a call.
        modules: dotted name to file of every module that is not a library's; an included file is named by its
            file name without the suffix.
        loaded: the same modules as objects; `sys.modules` may hold another included file's under the same name.
        files: data files that were read during the import.
        digests: SHA-256 of each of these files when it was loaded.
    """

    folder: Path | None
    modules: dict[str, Path] = field(default_factory=dict)
    loaded: dict[str, ModuleType] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    digests: dict[Path, str] = field(default_factory=dict)
    root: Path | None = None
    origin: Origin | None = None

    def add(self, name: str, module: ModuleType, file: Path) -> None:
        """Add a module under the name by which it is imported."""
        self.modules[name], self.loaded[name] = file, module

    def unchanged(self) -> bool:
        """Tell whether every file still has the content that was loaded."""
        return all(path.is_file() and sha256(path) == digest for path, digest in self.digests.items())


_included: dict[str, LoadedCode] = {}  # by the name in sys.modules of the included file
_plugins: dict[str, LoadedCode] = {}  # by distribution
_plugin_roots: set[str] = set()  # top-level names that a plug-in's distribution installs
_folders: list[str] = []  # of included files, on sys.path for the imports inside their functions
_late: dict[str, tuple[Path, str]] = {}  # modules that recorded calls have loaded: file and SHA-256 at that time
_broken: dict[str, str] = {}  # plug-ins that could not be loaded, by distribution and name: why


def loaded_code(module: str, file: str) -> LoadedCode | None:
    """Return the record of the included file or plug-in that loaded a module, None for any other module.

    Args:
        module: `__module__` of a function.
        file: the file that the function's code was compiled from.

    Returns:
        The record.
    """
    if module in _included:
        return _included[module]
    for record in (*reversed(_included.values()), *_plugins.values()):
        found = record.modules.get(module)
        if found is not None and found == Path(file).resolve():
            return record
    return None


def origin_of(function: Callable[..., object]) -> Origin | None:
    """Return where a function was loaded from; None if it is ours, or was defined in running code."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    code = getattr(function, "__code__", None)
    record = loaded_code(function.__module__, code.co_filename) if code else None
    return record.origin if record else None


def origins_of(functions: Iterable[Callable[..., object]]) -> tuple[Origin, ...]:
    """Return where functions were loaded from, without ours and what running code defines."""
    found = dict.fromkeys(origin for function in functions if (origin := origin_of(function)))
    return tuple(sorted(found, key=lambda origin: (origin.kind, origin.name)))


def origin_of_file(module: ModuleType) -> Origin | None:
    """Return where an included file's module was loaded from, None for any other module."""
    record = _included.get(module.__name__)
    return record.origin if record else None


def broken_plugins() -> list[str]:
    """Return a line for every plug-in that could not be loaded."""
    return list(_broken.values())


def is_library(name: str, path: Path) -> bool:
    """Tell whether a module belongs to Python or to an installed library that is no plug-in of ours."""
    top = name.partition(".")[0]
    return top not in _plugin_roots and (top in sys.stdlib_module_names or str(path).startswith(LIBRARIES))


def load_file(path: Path, seconds: float | None = TRIAL_SECONDS) -> ModuleType:
    """Import a file with the modules beside it; a file that was not edited since is imported once.

    It is imported in a copy of this process first (`deadly`), and what the import changes of the process is put back;
    the first lines of what it prints go to stderr.
    Modules beside the file are found from any working folder, before those of the same name elsewhere. Each included
    file has its own: a `helper.py` beside one is not what `import helper` gives in another folder.

    Args:
        path: an absolute path.
        seconds: within which the copy must have imported it; None: this process may end with it, and keeps what the
            import changes.

    Returns:
        The module.

    Raises:
        UsageError: no Python file, it fails to import, ends the process or hangs, or it imports a helper inside a
            function while another included file has loaded a module of that name.
    """
    name = f"{_PREFIX}{path.stem}_{sha256_of(str(path).encode())[:8]}"
    if name in sys.modules and name in _included and _included[name].unchanged():
        return sys.modules[name]
    if seconds is None:
        return _import_file(path, name, nullcontext())
    if end := deadly(lambda: _import_file(path, name, nullcontext()), seconds):
        raise UsageError(
            f"--include {path}: expected a file that imports, got {end}. Try `python {path.name}` beside it."
        )
    with printed_to_stderr():
        return _import_file(path, name, process_state_kept())


def _import_file(path: Path, name: str, kept: AbstractContextManager[None]) -> ModuleType:
    """Import a file as a module of a name in a context, and record what that loads.

    Returns:
        The module.

    Raises:
        UsageError: no Python file, or it fails to import.
        KeyboardInterrupt: Ctrl-C.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--include: expected a file ending in .py, got {str(path)!r}. Rename it.")
    module = importlib.util.module_from_spec(spec)
    record = LoadedCode(path.parent, root=path.parent)
    record.add(path.stem, module, path)
    sys.modules[name] = module
    try:
        with _own_modules(path, record), kept, _recorded(record):
            spec.loader.exec_module(module)
    except UsageError as error:
        del sys.modules[name]
        if path.name in str(error):
            raise
        raise UsageError(f"{path.name}: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also what ends a process or a generator, and what is no Exception
        del sys.modules[name]
        problem = f"expected a file that imports, got {described(error, 500)}. Try `python {path.name}` beside it."
        raise UsageError(f"--include {path}: {problem}") from error
    record.digests = {file: sha256(file) for file in (*record.modules.values(), *record.files)}
    modules = "".join(record.digests[file] for file in sorted(record.modules.values()))
    record.origin = Origin("file", str(path), sha256_of(modules.encode()))
    _included[name] = record
    return module


def load_plugins(group: str, only: Collection[str] | None = None, seconds: float | None = TRIAL_SECONDS) -> None:
    """Import every installed entry point of a group, e.g. "bench.defenses".

    One that fails to import, ends the process or hangs is left out; `broken_plugins` names it. Each is imported in a
    copy of this process first, as a file is.

    Args:
        group: the group of entry points.
        only: distributions; None: all.
        seconds: see `load_file`.
    """
    for point in importlib.metadata.entry_points(group=group):
        distribution = point.dist.name if point.dist else point.module
        if only is not None and distribution not in only:
            continue
        record = _plugin_record(point, distribution)
        try:
            if seconds is None:
                problem = _load_point(point, record)
            elif not (problem := "" if point.module in sys.modules else deadly(point.load, seconds)):
                with printed_to_stderr(), process_state_kept():
                    problem = _load_point(point, record)
        except UsageError as error:  # what it registers is refused
            problem = str(error)
        if problem:
            _broken[f"{distribution}: {point.name}"] = (
                f"plug-in {point.name} of {distribution}: expected {point.value} to import, got {problem}. "
                f"Repair or uninstall {distribution}."
            )
            continue
        record.root = record.root or _root_of(sys.modules.get(point.module))
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in _plugin_roots and (file := _file_of(module)):
                record.add(name, module, file)


def _plugin_record(point: importlib.metadata.EntryPoint, distribution: str) -> LoadedCode:
    """Return the record of a plug-in's distribution, with the data files that it installs."""
    _plugin_roots.add(point.module.partition(".")[0])
    record = _plugins.setdefault(distribution, LoadedCode(None, origin=Origin("plug-in", distribution)))
    for installed in (point.dist.files or []) if point.dist else []:
        if installed.parts[0] == ".." or installed.parts[0].endswith(".dist-info"):
            continue
        if installed.suffix == ".py":
            _plugin_roots.add(Path(installed.parts[0]).stem)
        elif is_data(path := Path(str(installed.locate()))):
            record.files = tuple(sorted({*record.files, path}))
    return record


def _load_point(point: importlib.metadata.EntryPoint, record: LoadedCode) -> str:
    """Import an entry point and record what that loads; return how it failed, "" if it did not."""
    try:
        with _recorded(record):
            point.load()
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:  # as for a file
        return described(error, 500)
    return ""


@contextmanager
def recorded_call(function: Callable[..., object]) -> Iterator[LoadedCode]:
    """Record what third parties' code loads and reads while a function of theirs is called in the block.

    What a call has loaded is not loaded by the next one, and what it has read it may keep. So that a record holds the
    same whatever was called before, modules that other calls and other included files have loaded are hidden, and
    `functools` caches of the function's own modules are emptied.

    Args:
        function: what is called.

    Yields:
        The record of its file or plug-in; after the block, with what the call has added.
    """
    code = inspect.unwrap(function).__code__
    own = loaded_code(function.__module__, code.co_filename)
    record = LoadedCode(None)
    if own is not None:
        record = LoadedCode(own.folder, dict(own.modules), dict(own.loaded), own.files, root=own.root)
    _clear_caches(record)
    hidden = _without_others(record)
    try:
        with _recorded(record):
            yield record
    finally:
        new = {name: file for name, file in record.modules.items() if own is None or name not in own.modules}
        sys.modules.update(hidden)
        _late.update({name: (file, sha256(file)) for name, file in new.items() if name not in hidden})


def _clear_caches(record: LoadedCode) -> None:
    """Empty the `functools` caches of functions that a record's modules define."""
    for module in record.loaded.values():
        for value in list(vars(module).values()):
            clear = getattr(value, "cache_clear", None)
            if callable(clear) and getattr(value, "__module__", None) == module.__name__:
                clear()


def _without_others(record: LoadedCode) -> dict[str, ModuleType]:
    """Take modules that are not a record's out of `sys.modules`; return those to put back, edited ones are dropped."""
    others = {name for found in (*_included.values(), *_plugins.values()) for name in found.modules} | _late.keys()
    hidden = {}
    for name in others - record.modules.keys():
        module = sys.modules.get(name)
        if module is None or (file := _file_of(module)) is None:
            continue
        del sys.modules[name]
        loaded_from, digest = _late.get(name, (None, ""))
        if loaded_from != file or digest == sha256(file):
            hidden[name] = module
    return hidden


def _file_of(module: ModuleType | None) -> Path | None:
    """Return the file of a module of third parties, None for a library's, ours and what has no file."""
    name, file = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    if not isinstance(file, str) or name == "bench" or name.startswith("bench."):
        return None
    path = Path(file).resolve()
    return None if is_library(name, path) or not path.is_file() else path


def module_root(name: str, file: Path) -> Path:
    """Return the folder that a module's top-level package, or the module itself, is in."""
    depth = name.count(".") + (file.stem == "__init__")
    return file.parents[depth] if depth < len(file.parents) else file.parent


def _root_of(module: ModuleType | None) -> Path | None:
    file = _file_of(module) if module else None
    return module_root(module.__name__, file) if module and file else None


@contextmanager
def _recorded(record: LoadedCode) -> Iterator[None]:
    """Add to a record the modules that the block loads and the files that it reads."""
    before = dict(sys.modules)
    try:
        with recorded_reads(record.root) as files:
            yield
    finally:
        for name, module in list(sys.modules.items()):
            if before.get(name) is not module and (file := _file_of(module)):
                record.add(name, module, file)
        record.files = tuple(sorted({*record.files, *files}))


@contextmanager
def _own_modules(path: Path, record: LoadedCode) -> Iterator[None]:
    """Import with a file's folder first on the path, without the helpers that other included files have loaded."""
    folder, search = str(path.parent), sys.path[:]
    loaded = {name for other in _included.values() for name in other.modules}
    hidden = {
        name: sys.modules.pop(name)
        for name, module in list(sys.modules.items())
        if not name.startswith(_PREFIX)
        and name != "__main__"
        and (file := _file_of(module))
        and (name in loaded or (_is_beside(name, path.parent) and not file.is_relative_to(path.parent)))
    }
    sys.path[:] = [folder, *(entry for entry in search if entry not in _folders)]
    importlib.invalidate_caches()
    done = False
    try:
        yield
        done = True
    finally:
        sys.path[:] = search
        clashing = {
            name
            for name, module in hidden.items()
            if name in sys.modules and _file_of(sys.modules[name]) != _file_of(module)
        }
        for name, module in hidden.items():
            if name in clashing or name not in sys.modules:
                sys.modules[name] = module
        if done and folder not in search:
            sys.path.append(folder)
            _folders.append(folder)
    refuse_late_imports(path, record.modules.values(), clashing)


def _is_beside(name: str, folder: Path) -> bool:
    top = name.partition(".")[0]
    return (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
