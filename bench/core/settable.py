"""Which arguments of a registered function a user may set."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection
from typing import Any


def settable_parameters(function: Callable[..., Any], reserved: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """Return the keyword-only arguments of a function by name, without the reserved ones.

    An annotation that was written as a string is evaluated; one that cannot be (its type is imported for type
    checkers only) stays a string.
    """
    found = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY and p.name not in reserved:
            annotation = p.annotation
            if isinstance(annotation, str):
                with contextlib.suppress(NameError, AttributeError, SyntaxError, TypeError):
                    annotation = eval(annotation, getattr(inspect.unwrap(function), "__globals__", {}))
            found[p.name] = p.replace(annotation=annotation)
    return found
