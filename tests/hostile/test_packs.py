"""Packs that would take memory, act, or lead elsewhere are refused by what they announce."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from safetensors.numpy import save

from bench.store import bounded, serialise
from bench.store.audit_record import AuditedModel, AuditFile, AuditHit, AuditRecord, FrozenClaim


def piece(content: bytes) -> dict[str, object]:
    """Return what pack.json says of a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


ZEROS = 300_000_000  # bytes that a bomb unfolds to


def test_the_good_pack_is_good(cli, spoilt, tmp_path):
    assert cli("results", "unpack", spoilt.folder, "--out", tmp_path / "out").code == 0


def bomb(size: int) -> bytes:
    """Return compressed arrays that announce and hold so many bytes of zeros, without ever holding them here."""
    header = json.dumps({"index": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    deflate, parts = zlib.compressobj(9), []
    parts.append(deflate.compress(struct.pack("<Q", len(header)) + header))
    block = bytes(1_000_000)
    parts += [deflate.compress(block) for _ in range(size // len(block))]
    return b"".join([*parts, deflate.flush()])


def set_images(data: bytes):
    def change(db):
        db.execute("UPDATE chunks SET images=?, images_sha256=? WHERE rowid=1", (data, piece(data)["sha256"]))

    return change


def set_table(data: bytes):
    def change(db):
        db.execute("UPDATE chunks SET data=?, sha256=? WHERE rowid=1", (data, piece(data)["sha256"]))

    return change


def test_a_bomb_inside_the_pictures_is_5_and_never_unfolded(spoilt, refused):
    spoilt.alter_store(set_images(bomb(ZEROS)))
    tracemalloc.start()
    refused(spoilt, 5, "expected at most")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < ZEROS / 3


def test_many_small_bombs_are_5_too(spoilt, refused):
    data = bomb(100_000_000)

    def change(db):
        db.execute("UPDATE chunks SET images=?, images_sha256=?", (data, piece(data)["sha256"]))

    spoilt.alter_store(change)
    refused(spoilt, 5, "pictures that unfold to at most")


def test_pictures_that_hold_more_than_they_announce_are_not_read_further():
    header = json.dumps({"index": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    data = zlib.compress(struct.pack("<Q", len(header)) + header + bytes(50_000_000))
    assert bounded.announced_arrays(data) < 1000
    with pytest.raises(ValueError):
        serialise.unpack_arrays(data)
    with pytest.raises(ValueError, match="at most 1,000 bytes"):
        bounded.inflated(data, 1000)


@pytest.mark.parametrize(
    "data", [b"", b"x", zlib.compress(b""), zlib.compress(struct.pack("<Q", 2**60)), zlib.compress(b"\xff" * 30)]
)
def test_pictures_that_are_none_are_6(spoilt, refused, data):
    spoilt.alter_store(set_images(data))
    refused(spoilt, 6, "expected a stored table")


def test_a_table_that_announces_gigabytes_is_5(spoilt, refused):
    batch = pa.RecordBatch.from_arrays([pa.array(np.zeros(260_000_000, np.uint8))], names=["index"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(batch)
    data = sink.getvalue().to_pybytes()
    assert len(data) < 5_000_000
    size, rows, *_ = bounded.announced_table(data)
    assert size >= rows == 260_000_000
    spoilt.alter_store(set_table(data))
    refused(spoilt, 5, "expected at most")


def test_a_table_of_nothing_but_rows_is_5(spoilt, refused):
    batch = pa.RecordBatch.from_arrays([pa.nulls(2_000_000)], names=["index"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    spoilt.alter_store(set_table(sink.getvalue().to_pybytes()))
    refused(spoilt, 5, "2,000,000 rows")


@pytest.mark.parametrize("cut", [0, 4, 100, -20])
def test_a_table_that_is_none_is_6(spoilt, refused, good, cut):
    table = serialise.pack_table(pd.DataFrame({"index": [0], "label": [1]}))
    spoilt.alter_store(set_table(table[:cut] + b"\xff" * 30))
    refused(spoilt, 6, "expected a stored table")


def test_the_sizes_of_sound_tables_are_read_right():
    for frame in (
        pd.DataFrame({"index": range(500), "label": 1, "x": np.random.default_rng(0).normal(size=500)}),
        pd.DataFrame({"index": [1], "label": [2], "s": ["a text"], "f": [True]}),
        pd.DataFrame({"index": pd.Series([], dtype="int64"), "label": pd.Series([], dtype="int64")}),
    ):
        data = serialise.pack_table(frame)
        size, rows, *_ = bounded.announced_table(data)
        assert rows == len(frame)
        assert size >= sum(int(a.nbytes) for a in pa.Table.from_pandas(frame, preserve_index=False).columns) * 0.9
        assert size <= 4096 + 100 * len(frame)
        assert serialise.unpack_table(data).num_rows == len(frame)


STATEMENTS = {
    "a trigger": "CREATE TRIGGER evil AFTER INSERT ON plans BEGIN DELETE FROM cells; END",
    "a view": "CREATE VIEW evil AS SELECT randomblob(1000000000)",
    "a table of its own": "CREATE TABLE evil (x)",
    "an index on an expression": "CREATE INDEX evil ON cells (length(spec))",
    "a computed column": "ALTER TABLE cells ADD COLUMN evil AS (zeroblob(1000000000))",
    "a default that computes": "ALTER TABLE meta ADD COLUMN evil DEFAULT (abs(-1))",
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_store_that_could_act_is_5(spoilt, refused, name):
    if name == "a default that computes":
        spoilt.alter_store(
            lambda db: db.executescript("DROP TABLE meta; CREATE TABLE meta (key DEFAULT (abs(-1)), value)")
        )
    else:
        spoilt.alter_store(lambda db: db.execute(STATEMENTS[name]))
    refused(spoilt, 5, "Do not use this pack")


def test_a_record_of_many_megabytes_is_5(spoilt, refused):
    spoilt.alter_store(
        lambda db: db.execute("UPDATE cells SET info=? WHERE rowid=1", ('{"a": "' + "x" * 21_000_000 + '"}',))
    )
    refused(spoilt, 5, "cells.info")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "null", '"x"'])
def test_a_record_that_is_no_object_is_one_line(cli, spoilt, tmp_path, text):
    spoilt.alter_store(lambda db: db.execute("UPDATE plans SET plan=?", (text,)))
    done = cli("results", "unpack", spoilt.folder, "--out", tmp_path / "out")
    assert done.code in (3, 6), done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "internal error" not in done.err


def test_an_archive_of_very_many_entries_is_5_before_they_are_listed(spoilt, refused):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for i in range(2000):
            archive.writestr(f"{i}", b"")
    (spoilt.folder / "weights.zip").write_bytes(stream.getvalue())
    spoilt.agree("weights.zip", {f"weights/{'0' * 64}.safetensors": {"bytes": 0, "sha256": "0" * 64}})
    refused(spoilt, 5, "got 2000")


def test_an_archive_that_unfolds_far_beyond_its_size_is_5(spoilt, refused):
    spoilt.plant("board.zip", {"leaderboard.md": bytes(160_000_000)})
    refused(spoilt, 5, "bytes to unpack")


@pytest.mark.parametrize("tail", [b"more", b"PK\x05\x06" + b"\0" * 18])
def test_an_archive_with_something_behind_its_end_is_refused(cli, spoilt, tmp_path, tail):
    path = spoilt.folder / "store.zip"
    with zipfile.ZipFile(path) as archive:
        members = {name: piece(archive.read(name)) for name in archive.namelist()}
    path.write_bytes(path.read_bytes() + tail)
    spoilt.agree("store.zip", members)
    done = cli("results", "unpack", spoilt.folder, "--out", tmp_path / "out")
    assert done.code == 3
    assert "internal error" not in done.err


def test_a_part_that_is_a_link_is_5(spoilt, refused, tmp_path):
    target = spoilt.folder / "leaderboard.html"
    (tmp_path / "elsewhere").write_bytes(target.read_bytes())
    target.unlink()
    os.symlink(tmp_path / "elsewhere", target)
    refused(spoilt, 5, "got a link")


# Audits and challenges that travel


def audit(**changes) -> AuditRecord:
    model = AuditedModel(run="standard seed 0", weights="0" * 64, n=20, robust=tuple(range(10)))
    claim = FrozenClaim(
        column="autoattack_l2_0.5_robust",
        data="d",
        models=(model,),
        attack={"evaluation": "a"},
        margin="0.1",
        risk="0.05",
    )
    record = AuditRecord(
        claim=claim, claim_sha256=claim.sha256, frozen_at="2026", seed=1, seed_source="given", draws=10
    )
    return record.model_copy(update=changes)


def claim(**changes) -> dict[str, object]:
    changed = audit().claim.model_copy(update=changes)
    return {"claim": changed, "claim_sha256": changed.sha256}


AUDITS = {
    "more draws than images": audit(draws=11),
    "negative draws": audit(draws=-1),
    "an image out of its turn": audit(hits=(AuditHit(draw=1, number=audit().order()[1], cause="x"),)),
    "a hit that was not drawn": audit(draws=1, hits=(AuditHit(draw=2, number=audit().order()[1], cause="x"),)),
    "a margin that is none": audit(**claim(margin="much")),
    "no image": audit(**claim(models=())),
    "a changed claim": audit(claim_sha256="0" * 64),
}


@pytest.mark.parametrize("name", AUDITS)
def test_an_impossible_audit_is_3(spoilt, refused, name):
    spoilt.plant("store.zip", {"audit.json": AuditFile(audits=(AUDITS[name],)).model_dump_json().encode()})
    refused(spoilt, 3, "expected sound audits")


@pytest.mark.parametrize("content", [b"", b"[", b"[" * 100_000, b'{"format": 9, "audits": []}'])
def test_audits_that_are_none_are_3(spoilt, refused, content):
    spoilt.plant("store.zip", {"audit.json": content})
    refused(spoilt, 3, "audit.json")


@pytest.mark.parametrize("kind", ["another name", "no record", "cut off", "a header that lies"])
def test_a_challenge_that_is_none_is_3(spoilt, refused, kind):
    content = save({"index": np.zeros(1, np.int64)}, metadata={"bench.challenge": "{}"})
    if kind == "no record":
        content = save({"index": np.zeros(1, np.int64)})
    elif kind == "cut off":
        content = content[:-3]
    elif kind == "a header that lies":
        content = struct.pack("<Q", 2**63) + content[8:]
    name = "f" * 64 if kind == "another name" else piece(content)["sha256"]
    spoilt.plant("store.zip", {f"challenges/{name}.safetensors": content})
    refused(spoilt, 3, "expected an accepted challenge")


@pytest.mark.parametrize("name", ["challenges/../evil.safetensors", "challenges/evil.safetensors", "evil.json"])
def test_other_files_beside_the_store_are_5(spoilt, refused, name):
    spoilt.plant("store.zip", {name: b"evil"})
    refused(spoilt, 5, "Do not use this pack")
