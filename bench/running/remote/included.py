"""Third parties' files as content: what travels is what the keys of the plan's cells count of them.

That is each included file, the modules that it imports, also where a factory does so when it is called, the data that
it reads or names, and what `depends_on` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.core import discovery, user_code
from bench.core.errors import UsageError
from bench.core.user_code import LoadedCode
from bench.running import sources
from bench.running.plan import Plan


@dataclass(frozen=True)
class Included:
    """Third parties' files for workers. Nothing says where their folders are: these are numbered.

    Attributes:
        files: path below a worker's folder, "0/pkg/nets.py", to SHA-256.
        imported: those of `--include`, in its order.
    """

    files: dict[str, str] = field(default_factory=dict)
    imported: tuple[str, ...] = ()


def included_files(plan: Plan, put: Callable[[bytes], str]) -> Included:
    """Store what a plan's included files need where workers find it.

    Args:
        plan: names them; this process has imported them.
        put: stores a blob and returns its SHA-256.

    Returns:
        What orders say of them.

    Raises:
        UsageError: a file needs one that is below no included file's folder.
    """
    paths = tuple(dict.fromkeys(Path(path).resolve() for path in plan.included))
    folders = tuple(dict.fromkeys(path.parent for path in paths))
    needed = {path: _imported(path) for path in paths}
    for path, more in _called(plan):
        needed.setdefault(path, set()).update(more)
    found = dict[str, str]()
    for path, files in needed.items():
        own = [path.parent, *folders]
        for file in sorted(files):
            folder = next((one for one in own if file.is_relative_to(one)), None)
            if folder is None or folder not in folders:
                raise UsageError(
                    f"--include {path}: expected files below {path.parent.name}/, got {file.name} elsewhere. A worker "
                    "gets the files of that folder alone: move it there, or use --engine local."
                )
            name = f"{folders.index(folder)}/{file.relative_to(folder).as_posix()}"
            if name not in found:
                found[name] = put(file.read_bytes())
    return Included(found, tuple(f"{folders.index(path.parent)}/{path.name}" for path in paths))


def _imported(path: Path) -> set[Path]:
    """Return an included file, the modules that importing it has loaded, and the data files that it has read."""
    module = discovery.include(path)
    record = user_code.loaded_code(module.__name__, str(path))
    files = {path} if record is None else {path, *record.modules.values(), *record.files}
    return {file.resolve() for file in files}


def _called(plan: Plan) -> Iterator[tuple[Path, frozenset[Path]]]:
    """Yield included files and what functions of theirs, which the plan calls, need in addition."""
    seen = set[tuple[object, ...]]()
    for function, depends_on, built in _functions(plan):
        origin, asked = user_code.origin_of(function), (id(function), depends_on, id(built))
        if asked not in seen and origin is not None and origin.kind == "file":
            yield Path(origin.name), sources.third_partys([function], depends_on, built)
        seen.add(asked)


def _functions(plan: Plan) -> Iterator[tuple[Callable[..., object], tuple[Path, ...], LoadedCode | None]]:
    """Yield the functions of registered entries that a plan calls, the files that they depend on, and their calls."""
    for run in plan.runs:
        defense = run.job.defense
        yield defense.function, defense.depends_on, run.built
        more = [run.job.recipe.loss, *((defense.adaptive.surrogate, defense.adaptive.loss) if defense.adaptive else ())]
        yield from ((function, (), None) for function in more if function is not None)
    for planned in plan.evaluations:
        evaluation = planned.evaluation
        yield evaluation.function, evaluation.depends_on, None
        if evaluation.summary is not None:
            yield evaluation.summary, (), None
        if evaluation.attack is not None:
            yield evaluation.attack.function, evaluation.attack.depends_on, None
