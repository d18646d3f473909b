"""Docstrings as readable text: paragraphs without hard line breaks, argument lists, formulas; all still plain text."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

_HEADING = re.compile(r"(Args|Arguments|Returns|Raises|Attributes|Note|Notes|Example|Examples|References):\s*(.*)")
_ITEM = re.compile(r"([\w*][\w*.,` ]*?):\s+(.*)")


@dataclass(frozen=True)
class Block:
    """A piece of a docstring: a paragraph, a formula kept as typed, or a list of (term, words) under a heading."""

    kind: Literal["text", "typed", "list"]
    text: str
    items: tuple[tuple[str, str], ...] = ()


def blocks(docstring: str, settings: Collection[str]) -> list[Block]:
    """Return what a docstring tells readers of the board, in blocks, in order.

    Arguments that are no settings, and what a factory returns, concern who calls it alone and are left out.

    Args:
        docstring: of a defense.
        settings: names of its hyper-parameters.
    """
    found: list[Block] = []
    for group in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = group.splitlines()
        if not group.strip():
            continue
        heading = _HEADING.fullmatch(lines[0].strip())
        if heading and not lines[0].startswith(" "):
            body = ([f"    {heading[2]}"] if heading[2] else []) + lines[1:]
            items = tuple(_items(body))
            if heading[1] in ("Args", "Arguments"):
                items = tuple(item for item in items if any(name in settings for name in item[0].split(", ")))
            if items and heading[1] not in ("Returns", "Raises"):
                found.append(Block("list", heading[1], items))
        else:
            found += _paragraphs(lines)
    return found


def _paragraphs(lines: list[str]) -> list[Block]:
    """Join flush lines to paragraphs; keep indented ones as typed, unless they go on with an item of a list."""
    found: list[Block] = []
    for line in lines:
        item = bool(found) and found[-1].text.startswith("• ")
        kind: Literal["text", "typed"] = "typed" if line.startswith((" ", "\t")) and not item else "text"
        if line.startswith(("* ", "- ")):
            found.append(Block("text", f"• {line[2:]}"))
        elif item and not line.startswith((" ", "\t")):
            found.append(Block("text", line))
        elif found and found[-1].kind == kind:
            joint = "\n" if kind == "typed" else " "
            found[-1] = Block(kind, found[-1].text + joint + (line if kind == "typed" else line.strip()))
        else:
            found.append(Block(kind, line))
    return [Block(b.kind, inspect.cleandoc(b.text) if b.kind == "typed" else b.text.strip()) for b in found]


def _items(lines: list[str]) -> list[tuple[str, str]]:
    """Return (term, words) of an indented list; deeper lines belong to the item above."""
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    items: list[tuple[str, str]] = []
    for line in lines:
        match = _ITEM.fullmatch(line.strip()) if len(line) - len(line.lstrip()) == indent else None
        if match:
            items.append((match[1], match[2]))
        elif items:
            items[-1] = (items[-1][0], f"{items[-1][1]} {line.strip()}")
        else:
            items.append(("", line.strip()))
    return items


def code(text: str) -> Markup:
    """Return a text, escaped, in which `…` is set as code."""
    parts = re.split(r"`+([^`]+)`+", text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if k % 2 else escape(p) for k, p in enumerate(parts))
