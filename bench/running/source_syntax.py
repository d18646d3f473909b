"""What a source file imports, which strings it holds, and a hash of its syntax tree that no prose changes."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bench.core.hashing import sha256_of


class ModuleSource(NamedTuple):
    """What a key needs of a source file.

    Attributes:
        digest: SHA-256 of the syntax tree; of the bytes where the file is no Python source.
        imports: absolute names of the modules that it imports anywhere, and of what might be a sub-module.
        strings: its short string constants, which may name data files.
    """

    digest: str
    imports: tuple[str, ...]
    strings: tuple[str, ...]


@functools.lru_cache(maxsize=1024)
def read_source(content: bytes, name: str, is_package: bool) -> ModuleSource:
    """Read what a key needs of a module.

    Args:
        content: the file's bytes.
        name: the module's dotted name, against which its relative imports are resolved.
        is_package: whether the file is a package's `__init__.py`.

    Returns:
        Its hash, its imports and its strings.
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # compiled code
        return ModuleSource(sha256_of(content), (), ())
    digest, package = hashlib.sha256(), name if is_package else name.rpartition(".")[0]
    imports: list[str] = []
    strings: list[str] = []
    for node in _nodes(tree, digest.update):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            # `from package import name` may name a sub-module: both are looked up, what is no module has no file.
            imports += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.append(node.value)
        elif isinstance(node, ast.Call) and (imported := _imported_by_call(node, package)):
            imports.append(imported)
    kept = tuple(name for name in dict.fromkeys(imports) if name and not name.endswith(".*"))
    names = tuple(text for text in dict.fromkeys(strings) if text.isprintable() and 0 < len(text.encode()) < 200)
    return ModuleSource(digest.hexdigest(), kept, names)


def _base(node: ast.ImportFrom, package: str) -> str:
    """Return the absolute name of the module that a `from` statement imports from."""
    if not node.level:
        return node.module or ""
    parts = package.split(".") if package else []
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _imported_by_call(node: ast.Call, package: str) -> str | None:
    """Return the module of `import_module("name")` or `__import__("name")` with a literal name."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if called not in ("import_module", "__import__") or not node.args:
        return None
    argument = node.args[0]
    if not isinstance(argument, ast.Constant) or not isinstance(argument.value, str):
        return None
    try:
        return importlib.util.resolve_name(argument.value, package or None)
    except ImportError:
        return None


def _nodes(tree: ast.AST, write: Callable[[bytes], None]) -> Iterator[ast.AST]:
    """Yield every node that has an effect, and write the tree in a form that no version of Python changes.

    Left out are docstrings and other bare strings, `if TYPE_CHECKING:`, positions, and empty fields.
    """
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant) and isinstance(tree.value.value, str):
        return
    if isinstance(tree, ast.If) and ast.unparse(tree.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for node in tree.orelse:
            yield from _nodes(node, write)
        return
    yield tree
    write(f"({type(tree).__name__}".encode())
    for name, value in ast.iter_fields(tree):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                write(f" {name}=".encode())
                yield from _nodes(item, write)
            elif item is not None and name not in ("kind", "type_comment"):
                write(f" {name}={item!r}".encode())
    write(b")")
