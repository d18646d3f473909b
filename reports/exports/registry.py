"""What an export is, and how a file of this folder registers the one it makes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from bench.reports import exports
from bench.reports.board.model import Board

# One file's content, or path to text of several; None: this board has no such file.
Content: TypeAlias = str | bytes | Mapping[str, str] | None
Maker: TypeAlias = Callable[[Board], Content]
F = TypeVar("F", bound=Maker)


@dataclass(frozen=True)
class Export:
    """One exported file.

    Attributes:
        name: of the file in the result folder.
        make: returns its content.
        media: its media type; "": the page does not offer it.
        label: what the page's button says.
        order: its place among the buttons.
        written: whether it lies beside the page; else the page alone has it.
    """

    name: str
    make: Maker
    media: str = ""
    label: str = ""
    order: float = 0.0
    written: bool = True


EXPORTS: dict[str, Export] = {}


def export(
    name: str, *, media: str = "", label: str = "", order: float = 0.0, written: bool = True
) -> Callable[[F], F]:
    """Register a function that makes an exported file.

    Args:
        name: of the file in the result folder.
        media: its media type; "": the page does not offer it.
        label: what the page's button says.
        order: its place among the buttons.
        written: whether it is written beside the page; else the page alone has it.

    Returns:
        The decorator, which returns the function unchanged.
    """

    def register(make: F) -> F:
        EXPORTS[name] = Export(name, make, media, label, order, written)
        return make

    return register


def all_exports() -> list[Export]:
    """Return the exports that all files in this folder register, in their order."""
    for module in pkgutil.iter_modules(exports.__path__):
        importlib.import_module(f"{exports.__name__}.{module.name}")
    return sorted(EXPORTS.values(), key=lambda e: (e.order, e.name))
