"""What an argument may hold, read from its annotation and default."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import GroupedMetadata
from pydantic import ConfigDict, TypeAdapter

from bench.core.arguments import LARGEST_INT
from bench.core.records import Registered

KINDS: dict[type, str] = {float: "a finite number", int: "a whole number", bool: "true or false", str: "a word"}
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True, slots=True)
class Setting:
    """Type and range of a value that a user may set.

    Attributes:
        item: type of the value, or of each item: `int`, `Annotated[float, Ge(0)]`, `Literal["a", "b"]`.
        many: whether it is a list.
        optional: whether it may be None.
    """

    item: object
    many: bool = False
    optional: bool = False

    def __str__(self) -> str:
        """Return what an error message says is expected."""
        if self.many:
            return f"a list, each {self.one()}"
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        return KINDS[self.kind] + " and".join(_signs(self.item))

    @property
    def kind(self) -> type:
        """The scalar type of the value or of each item."""
        return type(self.choices[0]) if self.choices else next(k for k in KINDS if k is _plain(self.item))

    @property
    def choices(self) -> tuple[object, ...]:
        """The values of a `Literal`; () for other types."""
        plain = _plain(self.item)
        return typing.get_args(plain) if typing.get_origin(plain) is Literal else ()

    def validate(self, value: object) -> object:
        """Return a value, or one item of a list, in the setting's type; a whole number becomes a float.

        Raises:
            pydantic.ValidationError: another type, not finite, or out of range.
        """
        adapter: TypeAdapter[object] = TypeAdapter(self.item, config=_STRICT)  # type: ignore[arg-type]
        return adapter.validate_python(value)

    def one(self) -> Setting:
        """Return the setting of one item of a list."""
        return replace(self, many=False)


def settable(entry: Registered) -> dict[str, Setting]:
    """Return the arguments of a registered function that a user may set, and what each may hold."""
    return {name: setting_of(p.default, p.annotation) for name, p in entry.parameters.items()}


def setting_of(default: object, annotation: object) -> Setting:
    """Return what an argument may hold: by its annotation, and by its default where there is none or they disagree.

    Args:
        default: of the argument; `inspect.Parameter.empty` without one.
        annotation: a scalar type, a `Literal`, a sequence of one of them, either with None or with ranges
            (`Annotated`); anything else tells nothing.
    """
    items = list(_items(annotation))
    many = isinstance(default, tuple | list) or any(sequence for _, sequence in items)
    candidates = [item for item, _ in items]
    example = default[0] if isinstance(default, tuple | list) and default else default
    kinds = {Setting(item).kind for item in candidates}
    if type(example) in KINDS and not (type(example) in kinds or (type(example) is int and float in kinds)):
        candidates = [type(example)]
    fallback = float if isinstance(default, tuple | list) else str
    item = next((c for k in KINDS for c in candidates if Setting(c).kind is k), fallback)
    return Setting(item, many, default is None or type(None) in typing.get_args(_plain(annotation)))


def _items(
    annotation: object, ranges: tuple[object, ...] = (), sequence: bool = False
) -> Iterator[tuple[object, bool]]:
    """Yield every scalar type that an annotation names, with its ranges, and whether it is a sequence's."""
    plain, origin = _plain(annotation), typing.get_origin(_plain(annotation))
    own = (*ranges, *_metadata(annotation))
    if origin is Literal:
        yield plain, sequence
    elif isinstance(plain, type) and plain in KINDS:
        yield Annotated[(plain, *own)] if own else plain, sequence  # type: ignore[return-value]
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(plain):
            yield from _items(part, own, sequence)
    elif isinstance(origin, type) and issubclass(origin, Sequence):
        for part in typing.get_args(plain):
            yield from _items(part, (), True)


def _plain(annotation: object) -> object:
    """Return an annotation without its `Annotated`."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation


def _metadata(annotation: object) -> tuple[object, ...]:
    """Return the metadata of an `Annotated`; () for other annotations."""
    return typing.get_args(annotation)[1:] if typing.get_origin(annotation) is Annotated else ()


def _signs(item: object) -> Iterator[str]:
    """Yield the bounds of a range as text, each with a space before it: " >= 1"; every number is below 2^63."""
    for mark in _metadata(item):
        for bound in mark if isinstance(mark, GroupedMetadata) else (mark,):
            for name, sign in _SIGNS.items():
                if getattr(bound, name, LARGEST_INT) != LARGEST_INT:
                    yield f" {sign} {getattr(bound, name)}"
