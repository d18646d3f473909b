"""What an argument may hold: read from annotation and default, and enforced for texts and for values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from bench.config.setting import Setting, settable, setting_of
from bench.config.validation import check, read, shorten, show
from bench.core.arguments import fraction
from bench.core.errors import UsageError
from bench.core.ranges import Ge, Gt, Interval
from bench.core.records import Evaluation

NOTHING = object()  # no type at all


def sample(
    *,
    a: float = 1,
    b: list[int] | None = None,
    c: tuple[float, ...] = (),
    d: bool = True,
    e: Annotated[int, Ge(1)] = 3,
    f: Annotated[float, Gt(0)] | None = None,
    g: Sequence[Annotated[float, Interval(ge=0, lt=1)]] = (0.5,),
    h: Literal["x", "y"] = "x",
    i: Annotated[float | None, Ge(0)] = 0.5,
    seed: int = 0,
) -> None:
    """Take one argument of each kind."""


def unannotated(*, a=1, b=0.5, c=(1, 2), d=None, e="x", f=True, g=()):  # type: ignore[no-untyped-def]
    """Take arguments that only their defaults describe."""


def settings(function: Any) -> dict[str, Setting]:
    return settable(Evaluation("sample", function, "test", 1))


def test_settings_are_read_from_annotations() -> None:
    assert settings(sample) == {
        "a": Setting(float),
        "b": Setting(int, many=True, optional=True),
        "c": Setting(float, many=True),
        "d": Setting(bool),
        "e": Setting(Annotated[int, Ge(1)]),
        "f": Setting(Annotated[float, Gt(0)], optional=True),
        "g": Setting(Annotated[float, Interval(ge=0, lt=1)], many=True),
        "h": Setting(Literal["x", "y"]),
        "i": Setting(Annotated[float, Ge(0)], optional=True),
    }


def test_settings_without_annotations_are_those_of_the_defaults() -> None:
    assert settings(unannotated) == {
        "a": Setting(int),
        "b": Setting(float),
        "c": Setting(int, many=True),
        "d": Setting(str, optional=True),
        "e": Setting(str),
        "f": Setting(bool),
        "g": Setting(float, many=True),
    }
    assert setting_of(0.5, int) == Setting(float), "a default that the annotation does not allow counts more"
    assert setting_of(None, "Unknown | None") == Setting(str, optional=True)
    assert setting_of(0.5, NOTHING) == Setting(float)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("a", "1", 1.0),
        ("a", "8/255", 8 / 255),
        ("b", "1/2", [1, 2]),
        ("b", "none", None),
        ("d", "No", False),
        ("e", "1", 1),
        ("f", "1e-3", 1e-3),
        ("f", "NONE", None),
        ("g", "0/0.5", [0.0, 0.5]),
        ("h", "y", "y"),
    ],
)
def test_texts_become_values(name: str, text: str, value: object) -> None:
    found = read("w", text, settings(sample)[name])
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("a", True, "expected a finite number, got True"),
        ("a", math.nan, "expected a finite number, got nan"),
        ("a", 10**400, "expected a finite number, got 1000"),
        ("a", "0.5", "expected a finite number, got '0.5'"),
        ("a", "1/0", "expected a finite number, got '1/0'"),
        ("a", None, "expected a finite number, got None"),
        ("b", [], "expected a list, each a whole number, got an empty list. Give at least one value."),
        ("b", [1, True], "expected a whole number, got True"),
        ("d", 1, "expected true or false, got 1"),
        ("e", 0, "expected a whole number >= 1, got 0. Change the value."),
        ("e", 1.0, "expected a whole number >= 1, got 1.0"),
        ("e", 2**63, "expected a whole number >= 1 below 2^63, got 9223372036854775808"),
        ("f", 0.0, "expected a finite number > 0, got 0.0"),
        ("f", math.inf, "expected a finite number > 0, got inf"),
        ("g", [0.5, 1], "expected a finite number >= 0 and < 1, got 1"),
        ("h", "z", "expected one of x, y, got 'z'. Known: x, y."),
        ("i", -1, "expected a finite number >= 0, got -1"),
        ("d", {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}, "expected true or false, got {'a': "),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check("w", value, settings(sample)[name])
    assert str(caught.value).startswith(f"w: {message}")
    assert "\n" not in str(caught.value)


def test_values_keep_their_type() -> None:
    given = settings(sample)
    assert check("w", [1, 2], given["c"]) == [1.0, 2.0]
    assert check("w", (1, "1/4"), given["c"]) == [1.0, 0.25]
    assert check("w", 3, given["b"]) == [3]
    assert check("w", None, given["f"]) is None
    whole = check("w", 1, given["a"])
    assert (whole, type(whole)) == (1.0, float)


def test_any_range_that_pydantic_knows_is_enforced() -> None:
    with pytest.raises(UsageError, match="w: expected a whole number, got 3"):
        check("w", 3, setting_of(2, Annotated[int, Field(multiple_of=2)]))


def test_fractions_are_of_two_numbers() -> None:
    assert fraction(" 8 / 255 ") == 8 / 255
    assert fraction("0.5/2") == 0.25
    assert [fraction(v) for v in ("1/0", "a/b", "1/2/3", "-1/2", 3, None)] == ["1/0", "a/b", "1/2/3", "-1/2", 3, None]


def test_messages_show_no_more_than_a_line_of_a_value() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(show(deep)) < 100
    assert len(show("x" * 10_000)) < 100
    assert show(16**5000) == "a number of thousands of digits"


def test_shortest_forms() -> None:
    values = (None, True, 0.1, 1e-2, 1 / 3, 2, (0.5, 0.75), "a")
    assert [shorten(v) for v in values] == ["none", "true", "0.1", "0.01", repr(1 / 3), "2", "0.5/0.75", "a"]
