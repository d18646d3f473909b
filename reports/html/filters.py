"""Filters of the page's templates: links, names and arguments as readers see them."""

from __future__ import annotations

import re

from markupsafe import Markup

from bench.core.text import is_link


def href(link: str) -> str:
    """Return an http(s) link as it is, "#" for anything else: no other scheme becomes a link.

    Args:
        link: from a file that somebody else may have written.
    """
    return link if is_link(link) else "#"


def spoken(value: object) -> str:
    """Return an argument as readers see it: lists without brackets, nothing as "none".

    Args:
        value: plain data.
    """
    if isinstance(value, list | tuple):
        return ", ".join(spoken(v) for v in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value == "" else str(value)


def breakable(name: str) -> Markup:
    """Return a name, escaped, that may break into lines after "_" and ",".

    Args:
        name: of a defense.
    """
    return Markup("<wbr>").join(re.split(r"(?<=[_,])", name))


def audit_words(outcome: str) -> str:
    """Return the outcome of a risk-limiting audit as its badge says it.

    Args:
        outcome: "confirmed", "refuted" or "undecided".
    """
    return {"confirmed": "audited", "refuted": "audit refuted"}.get(outcome, "audit open")
