"""Results of an order as bytes: the SHA-256 in hexadecimal, then an Arrow stream with one row per event.

The stream names the order that it answers by the SHA-256 of its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import pyarrow as pa

from bench.core import errors
from bench.core.computing_time import ComputingTime
from bench.core.errors import BenchError, IntegrityError
from bench.core.hashing import sha256_of
from bench.core.text import described
from bench.running.child import ChildError
from bench.running.tasks import Advance, Measured, Note, Trained
from bench.store.packed_chunk import PackedChunk
from bench.training.epoch import EpochRecord

_DIGEST: Final = 64
_ORDER: Final = b"order"
_TYPES: Final = {"kind": pa.string(), "facts": pa.string(), "data": pa.binary(), "more": pa.binary()}
_SCHEMA: Final = pa.schema(list(_TYPES.items()))


@dataclass(frozen=True)
class Unfinished:
    """A training that goes on from a checkpoint, which is None where not one step was done."""

    checkpoint: bytes | None


@dataclass(frozen=True)
class Failure:
    """An exception: bench's own by name, others as text."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Return what travels of an exception."""
        known = isinstance(error, BenchError) and hasattr(errors, type(error).__name__)
        message = str(error) if isinstance(error, BenchError) else described(error)
        return cls(type(error).__name__ if known else "", message)

    def error(self) -> BenchError:
        """Return the exception to raise."""
        kind = getattr(errors, self.kind, ChildError) if self.kind else ChildError
        found: BenchError = kind(self.message)
        return found


Result: TypeAlias = PackedChunk | EpochRecord | Trained | Measured | Note | Advance | Unfinished | Failure
_PLAIN: Final[dict[str, type[Measured | Note | Advance | Failure]]] = {
    "Measured": Measured,
    "Note": Note,
    "Advance": Advance,
    "Failure": Failure,
}


def to_reply(results: Iterable[Result], order: str) -> bytes:
    """Return results as bytes.

    Args:
        results: in the order in which they came.
        order: SHA-256 of the order that they answer.
    """
    schema = _SCHEMA.with_metadata({_ORDER: order})
    columns = zip(*map(_row, results), strict=True)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, _TYPES.values(), strict=False)]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        if arrays:
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    content: bytes = sink.getvalue().to_pybytes()
    return sha256_of(content).encode() + content


def _row(result: Result) -> tuple[str, str, bytes | None, bytes | None]:
    kind = type(result).__name__
    if isinstance(result, PackedChunk):
        return kind, _json({"number": result.number, "info": result.info}), result.data, result.images
    if isinstance(result, EpochRecord):
        values = {**asdict(result), "nonfinite": sorted(result.nonfinite)}
        return kind, _json(values), None, None
    if isinstance(result, Trained):
        return kind, _json(result.info), result.weights, None
    if isinstance(result, Unfinished):
        return kind, "{}", result.checkpoint, None
    return kind, _json(asdict(result)), None, None


def _json(values: object) -> str:
    return json.dumps(values)  # NaN as Python writes it: only Python reads it, and nothing is lost


def from_reply(content: bytes, order: str, cell: str) -> Iterator[Result]:
    """Yield the results of a reply.

    Args:
        content: as `to_reply` gives it.
        order: SHA-256 of the order that it should answer.
        cell: id of its cell, for messages.

    Raises:
        IntegrityError: it is not as it was sent, or answers another order.
    """
    digest, stream = content[:_DIGEST], content[_DIGEST:]
    if sha256_of(stream).encode() != digest:
        raise IntegrityError(f"cell {cell[:12]}: expected results as they were sent, got changed ones. Run again.")
    reader = pa.ipc.open_stream(stream)
    if (answered := (reader.schema.metadata or {}).get(_ORDER, b"").decode()) != order:
        got = f"that to {answered[:12] or 'none'}"
        raise IntegrityError(f"cell {cell[:12]}: expected the reply to order {order[:12]}, got {got}. Run again.")
    for batch in reader:
        for kind, facts, data, more in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield _result(kind, json.loads(facts), data, more)


def findings(content: bytes) -> dict[str, str]:
    """Return what two replies to one order must agree in: not times, nor checkpoints, which hold times.

    Args:
        content: as `to_reply` gives it.

    Returns:
        Name of each chunk, of trained weights, and of what is known of the model as a whole, to the SHA-256 of it.
    """
    found = dict[str, str]()
    for row in pa.ipc.open_stream(content[_DIGEST:]).read_all().to_pylist():
        facts = json.loads(row["facts"])
        if row["kind"] in ("PackedChunk", "Trained"):
            found[f"{row['kind']} {facts.get('number', '')}"] = sha256_of((row["data"] or b"") + (row["more"] or b""))
        elif row["kind"] == "Measured" and facts["summary"]:
            found["Measured"] = sha256_of(_json(facts["summary"]).encode())
    return found


def _result(kind: str, facts: dict[str, Any], data: bytes | None, more: bytes | None) -> Result:
    if kind == "PackedChunk":
        return PackedChunk(data=data or b"", images=more, **facts)
    if kind == "EpochRecord":
        nonfinite, time = frozenset(facts.pop("nonfinite")), ComputingTime(**facts.pop("time"))
        return EpochRecord(**facts, time=time, nonfinite=nonfinite)
    if kind == "Trained":
        return Trained(data or b"", facts)
    if kind == "Unfinished":
        return Unfinished(data)
    return _PLAIN[kind](**facts)
