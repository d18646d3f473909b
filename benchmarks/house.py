"""Measure the source code against the project's own limits: `python -m benchmarks.house`, exit 1 if one is exceeded.

The limits are those of CONTRIBUTING.md: sizes, complexity, documentation, import levels, import cycles.
`tests/test_house.py` calls the same functions.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("bench", "models", "attacks", "reports", "benchmarks")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

# Packages from the top to the foundation. A module may import from its own level and from those below.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("benchmarks",),
    ("bench.cli", "bench.api", "bench.contracts", "bench.museum", "bench.__main__", "bench"),
    ("bench.running", "bench.packs"),
    ("bench.evaluations", "bench.training", "bench.reports", "bench.config"),
    ("bench.measuring", "bench.store", "bench.numerics", "bench.trust", "bench.models"),
    ("bench.attacks", "bench.data"),
    ("bench.core",),
)

MAX_FILE_LINES = 400
MAX_MEDIAN_LINES = 120
MAX_FUNCTION_LINES = 60
MAX_POSITIONAL = 7
MAX_COMPLEXITY = 15
MAX_UNTYPED_RECORDS = 29  # occurrences of the next line's type
UNTYPED_RECORD = "dict[str, " + "Any]"
FORMATTER_OFF = ("# fmt: " + "skip", "# fmt: " + "off")


@dataclass(frozen=True, slots=True)
class Module:
    """One source file.

    Attributes:
        name: its import name, e.g. "bench.attacks.pgd" for attacks/pgd.py.
        path: the file.
        text: its content.
        tree: its syntax tree.
    """

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @property
    def lines(self) -> int:
        """The number of lines."""
        return len(self.text.splitlines())

    @property
    def has_code(self) -> bool:
        """Whether there is more than a docstring."""
        return len(self.tree.body) > 1


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number and its limit.

    Attributes:
        name: what is measured.
        value: the number, as text.
        limit: the limit, as text; "" for a number without one.
        holds: whether the number respects the limit.
        where: the places that exceed it, or the place of the maximum.
    """

    name: str
    value: str
    limit: str
    holds: bool
    where: tuple[str, ...] = ()


def import_name(path: Path) -> str:
    """Return the import name of a file of the checkout: `models/`, `attacks/` and `reports/` lie within `bench`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] in ("bench", "benchmarks", "tests") else ("bench", *parts))
    return name.removesuffix(".__init__")


@cache
def modules() -> tuple[Module, ...]:
    """Return all source files of the project, tests left out, in the order of their paths."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple(Module(import_name(p), p, text := p.read_text(), ast.parse(text)) for p in paths)


def imports(module: Module) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of every import, lazy and TYPE_CHECKING ones included; the name is "" for a whole module."""
    known = {m.name for m in modules()}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.package.split(".")[: len(module.package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{origin}.{alias.name}"
                yield (submodule, "") if submodule in known else (origin, alias.name)


@cache
def import_graph() -> Mapping[str, frozenset[str]]:
    """Return the project's own modules that each module imports."""
    known = {m.name for m in modules()}
    return {m.name: frozenset(i for i, _ in imports(m) if i in known and i != m.name) for m in modules()}


def level(name: str) -> int:
    """Return the level of a module, 0 at the top; `len(LEVELS)` for a module that no level names."""
    packages = {package: i for i, level in enumerate(LEVELS) for package in level}
    parts = name.split(".")
    candidates = (".".join(parts[:n]) for n in range(len(parts), 1, -1))
    return next((packages[c] for c in candidates if c in packages), packages.get(name, packages.get(parts[0], 99)))


def upward_imports() -> list[str]:
    """Return the imports that point from a level to a higher one."""
    return [
        f"{name} imports {target}"
        for name, targets in import_graph().items()
        for target in sorted(targets)
        if level(target) < level(name)
    ]


def cycles() -> list[tuple[str, ...]]:
    """Return the sets of modules that import each other in a circle (Tarjan's strongly connected components)."""
    graph, order, low = import_graph(), dict[str, int](), dict[str, int]()
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            component = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(component) > 1:
                found.append(tuple(sorted(component)))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return sorted(found)


def longest_import_chain() -> tuple[str, ...]:
    """Return the longest chain of imports, from the top down; modules in a cycle count once each."""
    graph = import_graph()
    below: dict[str, tuple[str, ...]] = {}

    def chain(name: str, path: frozenset[str]) -> tuple[str, ...]:
        if name not in below:
            rests = [chain(t, path | {name}) for t in sorted(graph[name]) if t not in path]
            below[name] = (name, *max(rests, key=len, default=()))
        return below[name]

    return max((chain(name, frozenset()) for name in sorted(graph)), key=len)


def private_imports() -> list[str]:
    """Return the names with a leading underscore that one module takes from another."""
    found = []
    for module in modules():
        whole = set[str]()
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                whole |= {alias.asname or alias.name for alias in node.names}
        ours = [(o, n) for o, n in imports(module) if o.split(".")[0] in ("bench", "benchmarks")]
        for origin, name in ours:
            hidden = [p for p in (*origin.split("."), name) if p.startswith("_") and not p.startswith("__")]
            found += [f"{module.name} imports {name or origin} of {origin}"] if hidden else []
        short = {origin.rpartition(".")[2] for origin, name in ours if not name} & whole
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in short:
                hidden_name = node.attr.startswith("_") and not node.attr.startswith("__")
                found += [f"{module.name} uses {node.value.id}.{node.attr}"] if hidden_name else []
    return found


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a module, nested ones included."""
    yield from (node for node in ast.walk(module.tree) if isinstance(node, FUNCTIONS))


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of the body, the docstring left out; a signature is limited by its parameters."""
    statements = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def positional_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of parameters that may be given by position, `self` and `cls` left out."""
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
    return len([n for n in names if n not in ("self", "cls")])


def has_foreign_signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether the parameters are set from outside: a command's options, or RobustBench's `benchmark`."""
    decorators = {ast.unparse(d.func if isinstance(d, ast.Call) else d) for d in node.decorator_list}
    return node.name == "benchmark" or any(d.endswith((".command", ".callback")) for d in decorators)


def complexity(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return McCabe's cyclomatic complexity: 1 + branches, nested functions included (ruff's C901)."""
    return 1 + sum(_branches(child) for child in ast.walk(node) if child is not node)


def _branches(node: ast.AST) -> int:
    if isinstance(node, ast.If | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.match_case):
        return 1
    return 1 if isinstance(node, FUNCTIONS) else 0


def public_definitions(module: Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yield (dotted name, definition) of public classes, functions and methods."""

    def within(body: Sequence[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                yield f"{prefix}.{node.name}", node
                if isinstance(node, ast.ClassDef):
                    yield from within(node.body, f"{prefix}.{node.name}")

    yield from within(module.tree.body, module.name)


def is_overload(node: ast.AST) -> bool:
    """Tell whether a function is an `@overload`, or the second half of a property, which need no docstring."""
    decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
    return any(d == "overload" or d.endswith((".setter", ".deleter")) for d in decorators)


def undocumented() -> tuple[list[str], int]:
    """Return the public definitions without a docstring, and the number of all."""
    found = [(n, d) for m in modules() for n, d in public_definitions(m) if not is_overload(d)]
    return [n for n, d in found if ast.get_docstring(d) is None], len(found)


def count(text: str | Sequence[str]) -> dict[str, int]:
    """Return how often a text (or any of several) occurs in each module that has it."""
    texts = (text,) if isinstance(text, str) else text
    counts = {m.name: sum(m.text.count(t) for t in texts) for m in modules()}
    return {name: n for name, n in counts.items() if n}


def _worst(pairs: Sequence[tuple[str, int]], limit: int) -> tuple[int, tuple[str, ...]]:
    """Return the largest number, and the places above the limit, or that of the maximum if there are none."""
    ordered = sorted(pairs, key=lambda pair: -pair[1])
    above = [f"{name} ({n})" for name, n in ordered if n > limit]
    return ordered[0][1], tuple(above or [f"{ordered[0][0]} ({ordered[0][1]})"])


def _over_functions(
    title: str, limit: int, measure: Callable[[ast.FunctionDef | ast.AsyncFunctionDef], int], *, foreign: bool
) -> Figure:
    pairs = [
        (f"{module.name}.{node.name}", measure(node))
        for module in modules()
        for node in functions(module)
        if foreign or not has_foreign_signature(node)
    ]
    value, where = _worst(pairs, limit)
    return Figure(title, str(value), f"≤ {limit}", value <= limit, where)


def _files() -> Iterator[Figure]:
    for folder in FOLDERS:
        sizes = [(m.name, m.lines) for m in modules() if m.path.is_relative_to(ROOT / folder) and m.has_code]
        middle = median(n for _, n in sizes)
        if folder == "benchmarks":
            yield Figure(f"lines of a file in {folder}/, median", f"{middle:g}", "none: one command, one file", True)
        else:
            holds = middle <= MAX_MEDIAN_LINES
            yield Figure(f"lines of a file in {folder}/, median", f"{middle:g}", f"≤ {MAX_MEDIAN_LINES}", holds)
        value, where = _worst(sizes, MAX_FILE_LINES)
        yield Figure(
            f"lines of a file in {folder}/, max", str(value), f"≤ {MAX_FILE_LINES}", value <= MAX_FILE_LINES, where
        )


def figures() -> Iterator[Figure]:
    """Yield all figures, in the order of the report."""
    yield from _files()
    yield _over_functions("lines of a function, max", MAX_FUNCTION_LINES, function_lines, foreign=True)
    yield _over_functions("positional parameters, max", MAX_POSITIONAL, positional_parameters, foreign=False)
    yield _over_functions("cyclomatic complexity, max", MAX_COMPLEXITY, complexity, foreign=True)
    missing, total = undocumented()
    share = 1 - len(missing) / total
    yield Figure("public definitions with a docstring", f"{share:.1%} of {total}", "100 %", not missing, tuple(missing))
    records = count(UNTYPED_RECORD)
    yield Figure(
        f"uses of {UNTYPED_RECORD}",
        str(sum(records.values())),
        f"≤ {MAX_UNTYPED_RECORDS}",
        sum(records.values()) <= MAX_UNTYPED_RECORDS,
        _counts(records),
    )
    off = count(FORMATTER_OFF)
    yield Figure("lines kept from the formatter", str(sum(off.values())), "0", not off, _counts(off))
    hidden = private_imports()
    yield Figure("private names used by other modules", str(len(hidden)), "0", not hidden, tuple(hidden))
    upward = upward_imports()
    yield Figure("imports of a higher level", str(len(upward)), "0", not upward, tuple(upward))
    circles = cycles()
    yield Figure("import cycles", str(len(circles)), "0", not circles, tuple(" ↔ ".join(c) for c in circles))
    chain = longest_import_chain()
    yield Figure("longest chain of imports", str(len(chain)), "", True, (" → ".join(chain),))


def _counts(counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"{name} ({n})" for name, n in sorted(counts.items(), key=lambda pair: -pair[1]))


def main(arguments: Sequence[str]) -> int:
    """Print the figures and return the exit code: 1 if one exceeds its limit. `-v` also names all places."""
    verbose = "-v" in arguments
    wrong = 0
    for figure in figures():
        wrong += not figure.holds
        print(f"{'ok   ' if figure.holds else 'WRONG'} {figure.name:<42} {figure.value:>14}  {figure.limit}")
        shown = figure.where if verbose or not figure.holds else ()
        for place in shown if verbose else shown[:8]:
            print(f"          {place}")
        if not verbose and len(shown) > 8:
            print(f"          … {len(shown) - 8} more (-v)")
    print(f"{wrong} figures exceed their limits" if wrong else "all figures are within their limits")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
