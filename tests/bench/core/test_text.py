"""Texts of others become printable lines that can be encoded and that somebody would read."""

from __future__ import annotations

import time

import pytest

from bench.core.column_names import check_column_names
from bench.core.errors import UsageError
from bench.core.text import LINE, described, is_plain, one_line, several_lines

SURROGATE = "\ud800"
HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "a\x00b\x08\x7f\x9b31m",
    f"file{SURROGATE}name",
    "right\u202eto left",
    "zero\u200bwidth\ufeff",
    "two\nlines\r\nand\u2028three",
    "x" * 10_000_000,
    "\n" * 10_000_000,
    SURROGATE * 1_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: repr(t[:12]))
def test_any_text_becomes_one_short_printable_line(text: str) -> None:
    started = time.process_time()
    line = one_line(text)
    assert line.isprintable()
    assert len(line) <= LINE
    assert is_plain(line)
    assert one_line(line) == line, "cleaning twice is cleaning once"
    line.encode()
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: repr(t[:12]))
def test_lines_stay_lines(text: str) -> None:
    lines = several_lines(f"first\n\tindented\n{text}", 500)
    lines.encode()
    assert len(lines) <= 500
    assert lines.startswith("first\n\tindented")
    assert all(part.isprintable() for line in lines.split("\n") for part in line.split("\t"))


def test_what_is_harmless_stays_as_it_is() -> None:
    for text in ("", "a b", "ℓ₂ ≤ 8/255 — ü 日本", "lcnn:lambda_beta=0.01"):
        assert one_line(text) == text
        assert several_lines(f"{text}\n  {text}") == f"{text}\n  {text}".rstrip("\n")


def test_what_is_left_out_is_said_and_both_ends_are_kept() -> None:
    line = one_line("begin " + "x" * 10_000_000 + " end")
    assert line.startswith("begin x")
    assert line.endswith("x end")
    assert "(10,000,010 characters)" in line


class Hostile(Exception):
    def __str__(self) -> str:
        raise SystemError("no text")


def test_an_exception_is_named_whatever_its_text_does() -> None:
    assert described(ValueError("not\nwith this")) == "ValueError: not with this"
    assert described(KeyError()) == "KeyError"
    assert described(Hostile()) == "Hostile: (a text that cannot be made: SystemError)"
    named = type("\x1b[31m" + "N" * 1000, (Exception,), {})
    assert described(named("x")).isprintable()
    assert len(described(named("x" * 10_000))) <= LINE


@pytest.mark.parametrize("name", ["index", "label", "defense", "seed", "", "a\nb", "\x1b[1m", SURROGATE, "x" * 129, 3])
def test_a_column_cannot_be_called(name: object) -> None:
    with pytest.raises(UsageError, match=r"^evaluation e: expected .*\. Rename it\.$") as caught:
        check_column_names("evaluation e", [name])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["rank", "defense", "n", "seeds"])
def test_a_board_column_cannot_be_called(name: str) -> None:
    check_column_names("evaluation e", ["x"], ["x", "seed_spread"])
    with pytest.raises(UsageError, match="Rename it"):
        check_column_names("evaluation e", ["x"], [name])
