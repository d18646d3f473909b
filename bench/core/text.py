"""Texts that others wrote, made harmless before they are stored, printed or put on the page.

Foreign are exception texts, docstrings, sources, names of columns and files, values of hyper-parameters and of text
columns. What is left of one is printable, can be encoded in UTF-8 and is not longer than a reader would read.
"""

from __future__ import annotations

from typing import Final

LINE: Final = 2_000  # characters that are kept of a line
PAGE: Final = 20_000  # characters that are kept of a text of several lines


def one_line(text: object, most: int = LINE) -> str:
    """Return a text as one printable line: runs of white space become one blank, control characters go.

    Lone surrogates, as in file names that are not UTF-8, become "\N{REPLACEMENT CHARACTER}".

    Args:
        text: any; an object that is no text is converted by `str`.
        most: characters that are kept, from both ends; in their middle the number of those left out is said.

    Returns:
        The line.
    """
    if type(text) is str and len(text) <= most and text.isprintable() and "  " not in text:
        return text.strip()  # most are harmless already
    whole = _as_text(text)
    return _shortened(_printable(" ".join(_clipped(whole, most).split())), most, len(whole))


def several_lines(text: object, most: int = PAGE) -> str:
    """Return a text line by line, tabs and line ends kept; otherwise as `one_line`.

    Args:
        text: any.
        most: characters that are kept, of the whole text.

    Returns:
        The lines, joined by line feeds.
    """
    whole = _as_text(text)
    lines = ("\t".join(map(_printable, line.split("\t"))) for line in _clipped(whole, most).splitlines())
    return _shortened("\n".join(lines), most, len(whole))


def is_plain(text: str, most: int = LINE) -> bool:
    """Tell whether a text is one printable line of at most so many characters already."""
    return len(text) <= most and text.isprintable()


def is_link(text: str) -> bool:
    """Tell whether a text is a printable http or https address: no other scheme becomes a link on a page."""
    return text.startswith(("https://", "http://")) and text.isprintable() and " " not in text


def described(error: BaseException, most: int = LINE) -> str:
    """Return an exception as one line, "ValueError: what it says".

    Args:
        error: any; its text may fail to be made.
        most: characters that are kept.
    """
    return one_line(f"{one_line(type(error).__name__, 100)}: {_as_text(error)}".removesuffix(": "), most)


def _as_text(value: object) -> str:
    """Return `str(value)`, or what is wrong with it: a class of third parties may raise there."""
    if type(value) is str:
        return value
    try:
        return str.__str__(str(value))
    except Exception as error:
        return f"(a text that cannot be made: {type(error).__name__})"


def _clipped(text: str, most: int) -> str:
    """Return both ends of a text of more than 16 times what is kept, so that cleaning it takes no time."""
    room = 8 * most
    return text if len(text) <= 2 * room else text[:room] + text[-room:]


def _printable(text: str) -> str:
    """Return a text without control characters, lone surrogates replaced."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "\ufffd" if "\ud800" <= c <= "\udfff" else "" for c in text)


def _shortened(text: str, most: int, size: int) -> str:
    """Return a text of at most `most` characters, the middle replaced by how many characters it had in all."""
    if len(text) <= most:
        return text
    gap = f" … ({size:,} characters) … "
    end = max(0, most - len(gap)) // 3
    start = max(0, most - len(gap) - end)
    return (text[:start] + gap + text[len(text) - end :])[:most]
