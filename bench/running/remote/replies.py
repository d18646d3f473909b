"""Results of an order as bytes: the SHA-256 in hexadecimal, then an Arrow stream with one row per event."""

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
from bench.measuring.passes import Passes
from bench.measuring.runner import Chunk
from bench.running.child import ChildError
from bench.running.tasks import Measured, Note, Trained
from bench.store import serialise
from bench.training.epoch import EpochRecord

_DIGEST: Final = 64
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


Result: TypeAlias = Chunk | EpochRecord | Trained | Measured | Note | Unfinished | Failure


def to_reply(results: Iterable[Result]) -> bytes:
    """Return results as bytes.

    Args:
        results: in the order in which they came.
    """
    rows = [dict(zip(_SCHEMA.names, _row(result), strict=True)) for result in results]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
    content: bytes = sink.getvalue().to_pybytes()
    return sha256_of(content).encode() + content


def _row(result: Result) -> tuple[str, str, bytes | None, bytes | None]:
    kind = type(result).__name__
    if isinstance(result, Chunk):
        facts = {"number": result.number, "passes": asdict(result.passes), "time": asdict(result.time)}
        images = serialise.pack_arrays(result.images) if result.images else None
        data = serialise.pack_table(result.table, result.columns)
        return kind, _json({**facts, "fitted": result.fitted}), data, images
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


def from_reply(content: bytes, cell: str) -> Iterator[Result]:
    """Yield the results of a reply.

    Args:
        content: as `to_reply` gives it.
        cell: id of its cell, for messages.

    Raises:
        IntegrityError: it is not as it was sent.
    """
    digest, stream = content[:_DIGEST], content[_DIGEST:]
    if sha256_of(stream).encode() != digest:
        raise IntegrityError(f"cell {cell[:12]}: expected results as they were sent, got changed ones. Run again.")
    for row in pa.ipc.open_stream(stream).read_all().to_pylist():
        yield _result(row["kind"], json.loads(row["facts"]), row["data"], row["more"])


def findings(content: bytes) -> dict[str, str]:
    """Return what two replies to one order must agree in: not times, nor checkpoints, which hold times.

    Args:
        content: as `to_reply` gives it.

    Returns:
        Name of each chunk and of trained weights to the SHA-256 of its content.
    """
    found = dict[str, str]()
    for row in pa.ipc.open_stream(content[_DIGEST:]).read_all().to_pylist():
        if row["kind"] in ("Chunk", "Trained"):
            number = json.loads(row["facts"]).get("number", "")
            found[f"{row['kind']} {number}"] = sha256_of((row["data"] or b"") + (row["more"] or b""))
    return found


def _result(kind: str, facts: dict[str, Any], data: bytes | None, more: bytes | None) -> Result:
    if kind == "Chunk":
        table = serialise.unpack_table(data or b"")
        return Chunk(
            number=facts["number"],
            table=table.to_pandas(use_threads=False),
            images=None if more is None else serialise.unpack_arrays(more),
            passes=Passes(**facts["passes"]),
            time=ComputingTime(**facts["time"]),
            columns=serialise.column_facts(table),
            fitted=facts["fitted"],
        )
    if kind == "EpochRecord":
        nonfinite, time = frozenset(facts.pop("nonfinite")), ComputingTime(**facts.pop("time"))
        return EpochRecord(**facts, time=time, nonfinite=nonfinite)
    if kind == "Trained":
        return Trained(data or b"", facts)
    if kind == "Unfinished":
        return Unfinished(data)
    plain: dict[str, type[Measured | Note | Failure]] = {"Measured": Measured, "Note": Note, "Failure": Failure}
    return plain[kind](**facts)
