"""Tables of many chunks are read as one stream where they share a schema, and are the same as read one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bench.core.errors import IntegrityError
from bench.core.hashing import sha256_of
from bench.core.records import Column
from bench.store import seals, serialise
from bench.store.store import Store

VALUE = Column("A value.", role="margin")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "out", create=True) as made:
        yield made


def table(start: int, n: int, **more: object) -> pd.DataFrame:
    values = np.where(np.arange(n) % 5 == 0, np.nan, np.linspace(0, 1, n))
    texts = pd.Series([["", "a", None][k % 3] for k in range(n)], dtype="str")
    return pd.DataFrame({"index": np.arange(start, start + n), "value": values, "by": texts} | more)


def test_one_stream_gives_what_each_alone_gives() -> None:
    frames = [table(0, 7), table(7, 500), table(507, 0), table(507, 1), table(508, 3, more=True), table(511, 4)]
    parts = [serialise.pack_table(frame, {"value": VALUE} if k < 3 else None) for k, frame in enumerate(frames)]
    expected = pa.concat_tables([serialise.unpack_table(part) for part in parts], promote_options="permissive")
    assert serialise.unpack_tables(parts).equals(expected)
    assert serialise.unpack_tables(parts[:3]).equals(pa.concat_tables(map(serialise.unpack_table, parts[:3])))
    assert serialise.column_facts(serialise.unpack_tables(parts[:3])).keys() == {"value"}
    assert serialise.unpack_tables(parts[:1]).equals(serialise.unpack_table(parts[0]))


@pytest.mark.parametrize("spoil", [lambda data: data[:-30], lambda data: b"", lambda data: data[:300] + b"\xff" * 40])
def test_a_chunk_that_cannot_be_read_is_named_among_others(store: Store, spoil: object) -> None:
    lease = store.leases.claim("c", "evaluation", {})
    assert lease is not None
    assert callable(spoil)
    for number in range(3):
        store.put_chunk(lease, number, table(50 * number, 50), None, {})
    db = store._database.connection
    data = spoil(bytes(db.execute("SELECT data FROM chunks WHERE number=1").fetchone()["data"]))
    db.execute("UPDATE chunks SET data=:data, sha256=:sha WHERE number=1", {"data": data, "sha": sha256_of(data)})
    seals.seal(db, "chunks", "number=1", {})
    with pytest.raises(IntegrityError, match="chunk 1 of cell c: expected data that can be read"):
        store.arrow_table("c")


def test_bytes_behind_the_end_of_a_stream_are_not_read(store: Store) -> None:
    part = serialise.pack_table(table(0, 20))
    other = serialise.pack_table(table(20, 20))
    assert serialise.unpack_tables([part + other, other]).num_rows == 40
    assert serialise.unpack_table(part + other).num_rows == 20
