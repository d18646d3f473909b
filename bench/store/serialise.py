"""Arrays, tables and plain data to bytes and back: the same values give the same bytes."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from bench.core.records import Column
from bench.store.bounded import MOST_IMAGES, MOST_ROWS, MOST_TABLE, Announced, announced_table, inflated


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Serialise named arrays, compressed (safetensors inside zlib: no pickle)."""
    return zlib.compress(save_safetensors({k: np.ascontiguousarray(v) for k, v in arrays.items()}), 6)


def is_packed(data: bytes, arrays: Mapping[str, np.ndarray]) -> bool:
    """Tell whether bytes are what `pack_arrays` makes of arrays, by whichever version of zlib.

    Args:
        data: as stored.
        arrays: by name.

    Returns:
        False also where they are damaged.
    """
    content = save_safetensors({k: np.ascontiguousarray(v) for k, v in arrays.items()})
    try:
        return inflated(data, len(content)) == content
    except ValueError:
        return False


def unpack_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Return what `pack_arrays` was given.

    Raises:
        ValueError: it is damaged, or unfolds to more than `MOST_IMAGES` bytes.
    """
    content = inflated(data, MOST_IMAGES)
    try:
        return load_safetensors(content)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def unpack_table(data: bytes) -> pa.Table:
    """Return the table that `pack_table` was given, in Arrow's form.

    Raises:
        ValueError: it is damaged, or becomes larger than `MOST_TABLE`.
    """
    _bounded(data)
    return _read_table(data)


def unpack_tables(parts: Sequence[bytes]) -> pa.Table:
    """Return the tables that `pack_table` was given, below each other, in Arrow's form.

    Tables of one schema are read as one stream, in half the time: most of it goes into beginning a stream.

    Args:
        parts: one or more stored tables.

    Raises:
        ValueError: one is damaged, or becomes larger than `MOST_TABLE`.
    """
    heads, bodies = list[bytes](), list[list[bytes]]()
    for data in parts:
        found = _bounded(data)
        head = data[: found.schema]
        if not head or not heads or head != heads[-1]:
            heads.append(head)
            bodies.append([])
        bodies[-1].append(data[found.schema : found.end])
    tables = [_read_table(b"".join((head, *body, _END))) for head, body in zip(heads, bodies, strict=True)]
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")


def _bounded(data: bytes) -> Announced:
    """Return what a stored table announces, if it is not too much."""
    found = announced_table(data)
    if found.size > MOST_TABLE or found.rows > MOST_ROWS:
        raise ValueError(f"a table of at most {MOST_TABLE:,} bytes expected, got {found.size:,} in {found.rows:,} rows")
    return found


def _read_table(data: bytes) -> pa.Table:
    """Return the table of an Arrow stream."""
    try:
        table = pa.ipc.open_stream(data, options=_SERIAL).read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if "index" not in table.column_names:
        raise ValueError("a table with index expected")
    return table


_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream
_SERIAL = pa.ipc.IpcReadOptions(use_threads=False)  # chunks are small: handing them to threads costs twice the reading
_COLUMN_FACTS = b"bench.column"


def pack_table(table: pd.DataFrame, columns: Mapping[str, Column] | None = None) -> bytes:
    """Serialise a table as a compressed Arrow IPC stream; what a column is goes into its field's metadata.

    Args:
        table: one row per image.
        columns: name to the concrete `Column`.

    Returns:
        The stream; the same table gives the same bytes.
    """
    arrays = {name: pa.array(values, from_pandas=True) for name, values in table.items()}
    facts = {name: dump_json(columns[name].metadata()).encode() for name in arrays if columns and name in columns}
    fields = [
        pa.field(name, array.type, metadata={_COLUMN_FACTS: facts[name]} if name in facts else None)
        for name, array in arrays.items()
    ]
    arrow = pa.Table.from_arrays(list(arrays.values()), schema=pa.schema(fields))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(arrow)
    return sink.getvalue().to_pybytes()


def column_facts(table: pa.Table) -> dict[str, Column]:
    """Return what the columns of a stored table are, by name; prose is left empty. Columns without facts are left out.

    Args:
        table: as read back from the store.
    """
    found = {}
    for column in table.schema:
        facts = (column.metadata or {}).get(_COLUMN_FACTS)
        if facts is not None:
            found[column.name] = Column(description="", **json.loads(facts))
    return found


def dump_json(value: Any, sort: bool = True) -> str:
    """Serialise as canonical JSON; non-finite numbers become null, so that every reader can parse it."""
    return json.dumps(_finite(value), sort_keys=sort, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if kind is dict or isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value
