"""Hugging Face parquet folders: `img` or `image` structs with bytes, labels as integers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.errors import IntegrityError
from bench.data.arrays import channels_first
from bench.data.cache import decoded_once
from bench.data.info import DatasetInfo, class_names
from bench.data.reading import (
    SPLITS,
    Arrays,
    Found,
    check_labels,
    copy_name,
    copy_note,
    damaged,
    decode,
    look_at,
    wrong_size,
)

# Folders in which the hub's own copies keep their files.
INNER = (".", "data", "plain_text", "cropped_digits")


def parquet(folder: Path, info: DatasetInfo) -> Found | str | None:
    """Look for `train-*.parquet` and `test-*.parquet` with `img`/`image` structs, labels and class names.

    Returns:
        What was found; or why the files do not serve, None where there are none.

    Raises:
        IntegrityError: a file with such a name does not parse, a split is empty, or a shard is missing.
    """
    shards: dict[str, list[Path]] = {}
    for inner in INNER:
        shards = {s: sorted((folder / inner).glob(f"{s}-*.parquet")) for s in SPLITS}
        if any(shards.values()):
            break
    else:
        return None
    missing = [s for s in SPLITS if not shards[s]]
    if missing:
        return f"it has no {missing[0]}-*.parquet"
    totals = dict.fromkeys(SPLITS, 0)
    columns: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        check_shards(shards[split])
        for path in shards[split]:
            totals[split] += open_table(path).metadata.num_rows
        if not totals[split]:
            damaged(shards[split][0], f"{split} images", "a table without rows")
        columns_or_reason = _columns(shards[split][0], info)
        if isinstance(columns_or_reason, str):
            return columns_or_reason
        columns[split] = columns_or_reason
        head = [data for data, _ in rows(shards[split], columns[split], 3)]
        if reason := wrong_size(head, info.shape):
            return reason
    name = copy_name(folder, "parquet")
    note = copy_note(name, f"a Hugging Face parquet copy of {look_at(head[0])[1]} pictures", info)
    read = partial(_read_parquet, shards, columns, totals, info)
    return Found(name, "Hugging Face parquet", False, note, folder, totals, read)


def open_table(path: Path) -> Any:
    """Return a parquet file, opened.

    Raises:
        IntegrityError: it is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        damaged(path, "a parquet file", error)


def check_shards(paths: list[Path]) -> None:
    """Refuse an incomplete set of `…-of-00003.parquet`: it would pass for a smaller data set."""
    match = re.search(r"-of-(\d+)\.parquet$", paths[0].name)
    if match and len(paths) != int(match[1]):
        raise IntegrityError(
            f"{paths[0].parent}: expected {int(match[1])} shards like {paths[0].name}, got {len(paths)}. "
            "Add the missing files or remove the folder."
        )


def _columns(path: Path, info: DatasetInfo) -> tuple[str, str] | str:
    """Return the names of picture and label column, or why the table does not serve."""
    import pyarrow

    schema = open_table(path).schema_arrow
    picture = next((c for c in ("img", "image") if c in schema.names), None)
    label = next((c for c in info.label_columns if c in schema.names), None)
    if picture is None or label is None:
        return f"its columns are {', '.join(schema.names)}, not img or image and {info.label_columns[0]}"
    kind = schema.field(picture).type
    if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return f"its column {picture} is no struct with bytes"
    encoded, numbers = kind.field("bytes").type, schema.field(label).type
    if not (pyarrow.types.is_binary(encoded) or pyarrow.types.is_large_binary(encoded)):
        return f"the bytes of its column {picture} are {encoded}"
    if not pyarrow.types.is_integer(numbers):
        return f"its column {label} holds {numbers}, not integers"
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = class_names(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return "its schema metadata holds no class names"
    return (picture, label) if names == info.classes else f"its class names are not those of {info.name}"


def rows(paths: list[Path], columns: tuple[str, str], n: int) -> Iterator[tuple[bytes | None, int | None]]:
    """Yield the first n encoded pictures and labels, in file order, reading no further than needed."""
    import pyarrow

    left = n
    for path in paths:
        table = open_table(path)
        try:
            for batch in table.iter_batches(min(left, 1024) or 1, columns=[f"{columns[0]}.bytes", columns[1]]):
                data, labels = batch.column(columns[0]).field("bytes"), batch.column(columns[1])
                yield from zip(data.to_pylist()[:left], labels.to_pylist()[:left], strict=True)
                left -= len(batch)
                if left <= 0:
                    return
        except (pyarrow.ArrowException, OSError) as error:
            damaged(path, "a whole parquet file", error)


def _read_parquet(
    shards: dict[str, list[Path]],
    columns: dict[str, tuple[str, str]],
    totals: dict[str, int],
    info: DatasetInfo,
    split: str,
    n: int | None,
) -> Arrays:
    facts = {"columns": columns[split], "shape": info.shape, "classes": len(info.classes)}
    decode_first = partial(_decode, shards[split], columns[split], totals[split], info, split)
    return decoded_once(shards[split], facts, decode_first, totals[split], n)


def _decode(
    paths: list[Path], columns: tuple[str, str], total: int, info: DatasetInfo, split: str, n: int | None
) -> Arrays:
    count = total if n is None else min(n, total)
    channels, height, width = info.shape
    images = np.empty((count, height, width, channels), np.uint8)
    labels = np.full(count, -1, np.int64)
    folder = paths[0].parent
    for i, (data, label) in enumerate(rows(paths, columns, count)):
        if data is None or label is None:
            raise IntegrityError(
                f"{folder}: expected a picture and a label, got null at {split} index {i}. Correct the file."
            )
        images[i] = decode(data, info.shape, f"{folder}, {split} index {i}")
        labels[i] = label
    return channels_first(images), check_labels(labels, len(info.classes), f"{folder}, {split}")
