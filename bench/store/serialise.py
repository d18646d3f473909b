"""Arrays, tables and plain data to bytes and back: the same values give the same bytes."""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors


def pack_arrays(arrays: dict[str, np.ndarray]) -> bytes:
    """Serialise named arrays, compressed (safetensors inside zlib: no pickle)."""
    return zlib.compress(save_safetensors({k: np.ascontiguousarray(v) for k, v in arrays.items()}), 6)


def unpack_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Return what `pack_arrays` was given."""
    return load_safetensors(zlib.decompress(data))


def pack_table(table: pd.DataFrame) -> bytes:
    """Serialise a table as a compressed Arrow IPC stream."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(arrow)
    return sink.getvalue().to_pybytes()


def dump_json(value: Any, sort: bool = True) -> str:
    """Serialise as canonical JSON; non-finite numbers become null, so that every reader can parse it."""
    return json.dumps(_finite(value), sort_keys=sort, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
