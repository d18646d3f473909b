"""How large stored bytes become when they are read: announced sizes are added up before memory is taken."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Final, NamedTuple

MOST_IMAGES: Final = 256_000_000  # bytes of one chunk's images; 500 of 3×32×32 at 20 budgets take as much
MOST_TABLE: Final = 256_000_000  # bytes of one chunk's table; 500 rows of 100 numbers take 400,000
MOST_ROWS: Final = 1_000_000  # of one chunk
_MOST_HEADER: Final = 1_000_000  # bytes of the description of a chunk's arrays
_CONTINUATION: Final = 0xFFFFFFFF
_NUMBER: Final = struct.Struct("<q")
_SCHEMA, _RECORD_BATCH = 1, 3  # kinds of messages of the Arrow stream format that the store writes


def inflated(data: bytes, most: int) -> bytes:
    """Return what zlib-compressed bytes hold, if it is no more than so many bytes.

    Args:
        data: compressed.
        most: bytes.

    Raises:
        ValueError: they hold more, are damaged or cut off, or something follows them.
    """
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) > most:
        raise ValueError(f"expected at most {most:,} bytes to unfold to, got more")
    if not inflater.eof or inflater.unused_data:
        raise ValueError("compressed data that end too early or too late")
    return content


def announced_arrays(data: bytes) -> int:
    """Return how many bytes the compressed arrays of `pack_arrays` announce, of which only the header is unfolded.

    Args:
        data: as stored.

    Raises:
        ValueError: it is damaged, or its header is too large.
    """
    try:
        head = zlib.decompressobj().decompress(data, 8 + _MOST_HEADER)
        (length,) = struct.unpack("<Q", head[:8])
        if length > _MOST_HEADER:
            raise ValueError(f"a header of {length:,} bytes")
        header = json.loads(head[8 : 8 + length])
        ends = [int(facts["data_offsets"][1]) for name, facts in header.items() if name != "__metadata__"]
    except (zlib.error, struct.error, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return int(8 + length + max(ends, default=0))


class Announced(NamedTuple):
    """What a stored Arrow stream announces.

    Attributes:
        size: bytes that its tables become.
        rows: of them.
        schema: place where the message with their schema ends; 0 where the stream does not begin with one.
        end: place behind its last message, where its end is marked.
    """

    size: int
    rows: int
    schema: int
    end: int


def announced_table(data: bytes) -> Announced:
    """Return what a stored Arrow stream announces; nothing is unfolded.

    The format: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc

    Args:
        data: as stored.

    Raises:
        ValueError: it is damaged, or holds messages of a kind that the store does not write.
    """
    place = end = size = rows = schema = 0
    try:
        while place < len(data):
            mark, length = struct.unpack_from("<Ii", data, place)
            place += 8
            if mark != _CONTINUATION or length < 0:
                raise ValueError("no Arrow stream")
            if length == 0:
                break
            message = _Table.root(data[place : place + length])
            place += length
            kind, body = message.number("<B", 1), message.number("<q", 3)
            if kind not in (_SCHEMA, _RECORD_BATCH) or not 0 <= body <= len(data) - place:
                raise ValueError(f"an Arrow message of kind {kind} with {body} bytes")
            if kind == _RECORD_BATCH:
                batch = message.table(2)
                rows += batch.number("<q", 0)
                size += _unfolded(data, place, body, batch.pairs(2), compressed=batch.has(3))
            elif end == 0:
                schema = place + body
            place = end = place + body
    except (struct.error, IndexError) as error:
        raise ValueError(f"no Arrow stream: {error}") from error
    if rows < 0:
        raise ValueError(f"{rows} rows")
    return Announced(size, rows, schema, end)


def _unfolded(data: bytes, body: int, most: int, buffers: tuple[int, ...], *, compressed: bool) -> int:
    """Return the bytes that the buffers of a message become, of which there are offset and length in turn.

    The first eight bytes of a compressed one announce them, −1 for as they are.

    Raises:
        ValueError: one lies outside of its message.
    """
    size = 0
    for offset, length in zip(buffers[::2], buffers[1::2], strict=True):
        if not 0 <= offset <= offset + length <= most:
            raise ValueError("a buffer outside of its message")
        size += max(_NUMBER.unpack_from(data, body + offset)[0], length) if compressed and length else length
    return size


class _Table:
    """A table of a FlatBuffers message, as far as the check of sizes needs it."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        (back,) = struct.unpack_from("<i", data, place)
        self._fields = place - back
        (self._size,) = struct.unpack_from("<H", data, self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """Return the table that a message begins with."""
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _field(self, number: int) -> int | None:
        """Return the place of a field, None where it has its default."""
        entry = 4 + 2 * number
        if entry + 2 > self._size:
            return None
        (offset,) = struct.unpack_from("<H", self._data, self._fields + entry)
        return self._place + offset if offset else None

    def has(self, number: int) -> bool:
        """Tell whether a field is there."""
        return self._field(number) is not None

    def number(self, form: str, number: int) -> int:
        """Return a field that holds a number, 0 by default."""
        place = self._field(number)
        return 0 if place is None else int(struct.unpack_from(form, self._data, place)[0])

    def table(self, number: int) -> _Table:
        """Return a field that holds a table.

        Raises:
            ValueError: it is absent.
        """
        place = self._field(number)
        if place is None:
            raise ValueError("an Arrow message without content")
        return _Table(self._data, place + struct.unpack_from("<I", self._data, place)[0])

    def pairs(self, number: int) -> tuple[int, ...]:
        """Return a field that holds a vector of pairs of 64-bit numbers, one after the other; () by default.

        Raises:
            ValueError: it is longer than its message.
        """
        place = self._field(number)
        if place is None:
            return ()
        start = place + struct.unpack_from("<I", self._data, place)[0]
        (count,) = struct.unpack_from("<I", self._data, start)
        if 16 * count > len(self._data):
            raise ValueError(f"{count} buffers")
        return struct.unpack_from(f"<{2 * count}q", self._data, start + 4)
