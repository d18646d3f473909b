"""What is on disk explains itself: `status`, `store check`, `store repair`, `store gc`."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.store import seals
from bench.store.database import Database
from bench.store.repair import repair
from bench.store.store import Store
from tests.bench.store.folders import CHUNKS, change, claimed, copied, make, plan_of, table_of

PAGE = 4096


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sound")
    make(out, "a", "b")
    return out


@pytest.fixture
def out(sound: Path, tmp_path: Path) -> Path:
    return copied(sound, tmp_path / "out")


def weights(out: Path) -> list[Path]:
    return sorted((out / "weights").glob("*.safetensors"))


def test_a_sound_folder_is_sound(cli: Callable[..., Any], out: Path) -> None:
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    done = cli("store", "check", "--out", out)
    assert (done.code, done.out, done.err) == (0, "sound\n", "")
    done = cli("store", "repair", "--out", out)
    assert done.out == f"chunks kept: {4 * CHUNKS}, records dropped: 0\n"
    done = cli("store", "gc", "--out", out)
    assert done.out == "would remove: 0 cells with 0 chunks, 0 files, 0 MB\n"
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


DAMAGE = {
    "chunk": ("UPDATE chunks SET data=zeroblob(9) WHERE cell='attack-b' AND number=1", "", "chunk 1 of cell attack-b"),
    "images": ("UPDATE chunks SET images=x'00' WHERE cell='attack-b' AND number=1", "", "chunk 1 of cell attack-b"),
    "table": ("UPDATE chunks SET data='x' WHERE cell='attack-b' AND number=1", "", "chunk 1 of cell attack-b"),
    "info": ("UPDATE cells SET info='{}' WHERE id='attack-b'", "", "cell attack-b: expected a record as it was"),
    "spec": ("UPDATE cells SET spec='[' WHERE id='attack-b'", "cells", "cell attack-b: expected an object in JSON"),
    "log": ("UPDATE epochs SET record='{}' WHERE cell='train-b' AND epoch=1", "", "epoch 1 of cell train-b"),
    "plan": ("UPDATE plans SET plan=replace(plan, 'digits', 'cifar1')", "", "plan 1: expected a record as it was"),
    "binding": ("UPDATE bindings SET cell='attack-a' WHERE cell='attack-b'", "", "'attack' in plan 1"),
    "link": ("UPDATE bindings SET cell='attack-a' WHERE cell='attack-b'", "bindings", "b seed 0: attack: expected we"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named_with_exit_code_3(cli: Callable[..., Any], out: Path, kind: str) -> None:
    sql, seal, named = DAMAGE[kind]
    change(out, sql, seal=seal)
    done = cli("store", "check", "--out", out)
    assert done.code == 3
    assert named in done.out
    assert "expected a sound store, got 1 problems" in done.err


@pytest.mark.parametrize("kind", [kind for kind in DAMAGE if kind != "link"])
def test_a_repair_keeps_what_is_intact(cli: Callable[..., Any], out: Path, kind: str) -> None:
    sql, seal, named = DAMAGE[kind]
    change(out, sql, seal=seal)
    done = cli("store", "repair", "--out", out)
    lost = kind in ("chunk", "images", "table")
    assert done.code == 0
    assert named in done.out
    assert done.out.endswith(f"chunks kept: {4 * CHUNKS - lost}, records dropped: 1\n")
    assert cli("store", "check", "--out", out).code == 0
    with Store.open(out) as store:
        assert len(store.table("attack-b")) == 6 - 2 * lost
        record = store.cell("attack-b")
        assert record is not None
        again = kind in ("chunk", "images", "table", "info", "spec")
        assert record.status == ("pending" if again else "done")
        if again:
            assert claimed(store, "attack-b", "evaluation", {}).generation > 1


def test_weights_and_checkpoints_are_compared_with_their_names_and_set_aside(
    cli: Callable[..., Any], out: Path
) -> None:
    path, checkpoint = weights(out)[0], out / "checkpoints" / "train-a.pt"
    for changed in (path, checkpoint):
        content = bytearray(changed.read_bytes())
        content[-1] ^= 1
        changed.write_bytes(content)
    done = cli("store", "check", "--out", out)
    assert done.code == 3
    assert f"weights/{path.name}: expected SHA-256 {path.stem[:12]}, got" in done.out
    assert "checkpoints/train-a.pt: expected a whole checkpoint, got SHA-256" in done.out
    done = cli("store", "repair", "--out", out)
    assert f"set aside: weights/{path.name}" in done.out
    assert path.with_name(f"{path.name}.damaged").is_file()
    assert not checkpoint.exists()
    assert "run it again" in done.out
    again = cli("store", "check", "--out", out)
    assert "expected weights/" in again.out
    assert "Run the command that made it again" in again.err, "the next run trains it anew; nothing is left to repair"


def test_missing_weights_are_a_problem_unless_they_were_left_out(cli: Callable[..., Any], out: Path) -> None:
    with Store.open(out) as store:
        again = store.plans.put(plan_of("a", "b", command="another command"))
        for place, defense in enumerate("ab"):
            store.plans.bind_all([(again, place, "attack", f"attack-{defense}")])
    weights(out)[0].unlink()
    done = cli("store", "check", "--out", out)
    assert done.out.count("found none") == 1, "two plans need them; they are missing once"
    assert "got 1 problems. Run the command that made it again" in done.err
    assert "repair" not in done.err
    status = json.loads(cli("status", "--out", out, "--json").out)
    assert status["counts"] == {"cells": 6, "done": 3, "running": 0, "left": 3, "failed": 0}
    assert [c["cell"] for c in status["cells"] if "weights are missing" in c["cause"]] == ["train"]
    change(out, "UPDATE cells SET info=json_set(info, '$.left_out', json('true'))", seal="cells")
    assert cli("store", "check", "--out", out).code == 0
    assert json.loads(cli("status", "--out", out, "--json").out)["counts"]["done"] == 4


def test_read_commands_name_the_damaged_chunk(cli: Callable[..., Any], out: Path, tmp_path: Path) -> None:
    change(out, DAMAGE["chunk"][0])
    for arguments in (("report", "--out", out), ("compare", "a", "b", "--out", out)):
        done = cli(*arguments)
        assert done.code == 3
        assert "chunk 1 of cell attack-b: expected data with SHA-256" in done.err
        assert len(done.err.strip().splitlines()) == 1


# --- damaged pages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store of many pages."""
    out = tmp_path_factory.mktemp("large")
    make(out, "a", "b")
    with Store.open(out) as store:
        lease = claimed(store, "many", "evaluation", {})
        for number in range(60):
            rows = pd.concat([table_of(i) for i in range(40)], ignore_index=True)
            store.put_chunk(lease, number, rows, None, {"images": 80})
        store.finish(lease, {})
    return out


def chunks(out: Path) -> dict[tuple[str, int], str]:
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db:
        return {(c, n): sha for c, n, sha in db.execute("SELECT cell, number, sha256 FROM chunks")}


def test_every_page_may_be_lost_and_the_rest_is_salvaged(large: Path, tmp_path: Path) -> None:
    """Overwrite one page after the other: no other record is lost, none is changed, and it ends sound."""
    whole, content = chunks(large), (large / "bench.db").read_bytes()
    pages = len(content) // PAGE
    kept, salvaged = [], 0
    for page in range(0, pages, max(1, pages // 12)):
        out = copied(large, tmp_path / str(page))
        spoilt = bytearray(content)
        spoilt[page * PAGE : (page + 1) * PAGE] = b"\xa5" * PAGE
        (out / "bench.db").write_bytes(spoilt)
        done = repair(out)
        found = chunks(out)
        assert found.items() <= whole.items()
        assert done.chunks == len(found)
        kept.append(len(found))
        if done.kept is not None:
            salvaged += 1
            assert done.kept.read_bytes() == bytes(spoilt), "the damaged file is not the last copy's loss"
        with contextlib.closing(Database.open(out, create=False)) as database:
            assert [row[0] for row in database.query("PRAGMA integrity_check")] == ["ok"]
        assert repair(out).dropped == []
    assert salvaged >= 3
    assert min(kept) >= len(whole) // 4
    assert sorted(kept)[len(kept) // 2] >= len(whole) - 10


def test_a_lost_first_page_costs_nothing_else(cli: Callable[..., Any], large: Path, tmp_path: Path) -> None:
    out = copied(large, tmp_path / "out")
    with (out / "bench.db").open("r+b") as stream:
        stream.write(b"<!DOCTYPE html>".ljust(PAGE, b" "))
    refused = cli("report", "--out", out)
    assert refused.code == 6
    assert "Run python -m bench store repair" in refused.err
    done = cli("store", "repair", "--out", out)
    assert done.code == 0, done.err
    assert f"chunks kept: {len(chunks(large))}, records dropped: 0" in done.out
    assert "the damaged file is now" in done.out
    assert cli("store", "check", "--out", out).code == 0


def test_what_cannot_be_salvaged_is_left_as_it_is(cli: Callable[..., Any], tmp_path: Path) -> None:
    for content, code in ((b"x" * 20_000, 6), (b"", 6)):
        (tmp_path / "bench.db").write_bytes(content)
        (tmp_path / "weights").mkdir(exist_ok=True)
        done = cli("store", "repair", "--out", tmp_path)
        assert done.code == code
        assert "expected records that can be read, got none" in done.err
        assert (tmp_path / "bench.db").read_bytes() == content
        assert sorted(p.name for p in tmp_path.iterdir()) == ["bench.db", "weights"]


def test_another_programs_database_is_not_repaired(cli: Callable[..., Any], tmp_path: Path) -> None:
    change(tmp_path, "CREATE TABLE t (x)")
    before = (tmp_path / "bench.db").read_bytes()
    done = cli("store", "repair", "--out", tmp_path)
    assert done.code == 6
    assert "another database" in done.err
    assert (tmp_path / "bench.db").read_bytes() == before


# --- what no plan needs --------------------------------------------------------------------------------------------


def test_gc_removes_only_what_no_plan_needs_and_only_when_told(cli: Callable[..., Any], out: Path) -> None:
    with Store.open(out) as store:
        number = store.plans.put(plan_of("a", command="another command"))
        evaluate_again(store, number)
    (out / "weights" / f"{'0' * 64}.safetensors").write_bytes(b"old")
    (out / "weights" / "0.attack.old-cell.adversarial.safetensors.z").write_bytes(b"old")
    (out / "weights" / "0.attack.attack-a.adversarial.safetensors.z").write_bytes(b"needed")
    (out / "checkpoints" / "old.pt").write_bytes(b"old")
    before = sorted(p.name for p in out.rglob("*"))
    dry = cli("store", "gc", "--out", out)
    assert "would remove: 1 cells with 1 chunks, 3 files" in dry.out
    assert sorted(p.name for p in out.rglob("*")) == before
    done = cli("store", "gc", "--out", out, "--yes")
    assert "removed: 1 cells with 1 chunks, 3 files" in done.out
    assert cli("store", "check", "--out", out).code == 0
    assert len(chunks(out)) == 4 * CHUNKS, "the older plan's too"
    assert len(weights(out)) == 2
    assert (out / "weights" / "0.attack.attack-a.adversarial.safetensors.z").is_file()
    assert cli("store", "gc", "--out", out).out.startswith("would remove: 0 cells with 0 chunks, 0 files")


def evaluate_again(store: Store, number: int) -> None:
    store.plans.bind_all([(number, 0, "attack", "attack-a")])
    lease = claimed(store, "forgotten", "evaluation", {"model": {"weights": "0" * 64}})
    store.put_chunk(lease, 0, table_of(0), None, {})
    store.finish(lease, {})


@pytest.mark.parametrize("command", [("repair",), ("gc", "--yes")])
def test_a_folder_in_use_is_not_changed(cli: Callable[..., Any], out: Path, command: tuple[str, ...]) -> None:
    with Store.open(out) as store:
        claimed(store, "new", "train", {})
        done = cli("store", *command, "--out", out)
    assert done.code == 7
    assert "expected no run on this folder, got one on" in done.err


def test_gc_does_not_guess_what_a_damaged_plan_needs(cli: Callable[..., Any], out: Path) -> None:
    change(out, DAMAGE["plan"][0])
    done = cli("store", "gc", "--out", out, "--yes")
    assert done.code == 3
    assert len(chunks(out)) == 4 * CHUNKS


# --- status --------------------------------------------------------------------------------------------------------


def test_status_says_what_is_done_running_left_and_failed(cli: Callable[..., Any], out: Path) -> None:
    with Store.open(out) as store:
        number = store.plans.put(plan_of("a", "b", "c", "d"))
        for place, defense in enumerate("ab"):
            store.plans.bind_all([(number, place, "attack", f"attack-{defense}")])
        store.fail(claimed(store, "train-c", "train", {}), "ValueError: no \x1b[31mred\nlines")
        claimed(store, "train-d", "train", {})
        store.plans.bind_all([(number, 1, "accuracy", "half")])
        half = claimed(store, "half", "evaluation", {})
        store.put_chunk(half, 0, table_of(0), None, {"images": 2})
        store.leases.release(half)
        done = cli("status", "--out", out, "--json")
        text = cli("status", "--out", out)
    found = json.loads(done.out)
    assert found["counts"] == {"cells": 12, "done": 4, "running": 1, "left": 6, "failed": 1}
    cells = {(c["model"], c["cell"]): c for c in found["cells"]}
    assert cells["c seed 0", "train"]["cause"].startswith("ValueError: no ")
    assert "process" in cells["d seed 0", "train"]["by"]
    assert (cells["b seed 0", "accuracy"]["images"], cells["b seed 0", "accuracy"]["of"]) == (2, 6)
    assert cells["a seed 0", "train"]["seconds"] == 1.5
    assert found["size"]["store"] > 0
    assert text.out.splitlines()[-1] == "cells: 12, done: 4, running: 1, left: 6, failed: 1"
    assert "\x1b" not in text.out
    assert len(text.out.splitlines()) == 3 + 8


def test_status_names_a_holder_that_cannot_be_seen(out: Path) -> None:
    change(
        out,
        "UPDATE cells SET status='running', owner=json_object('host', 'gone', 'pid', 1, 'start', 0) "
        "WHERE id='attack-a'",
        seal="cells",
    )
    with Store.open(out) as store:
        owner = store.leases.holder("attack-a")
    assert owner == "gone, process 1", "another host's process cannot be seen; it is named"


def test_no_store_is_4_and_an_unplanned_one_is_6(cli: Callable[..., Any], tmp_path: Path) -> None:
    for command in (("status",), ("store", "check"), ("store", "repair"), ("store", "gc")):
        assert cli(*command, "--out", tmp_path).code == 4
    Store.open(tmp_path, create=True).close()
    assert cli("status", "--out", tmp_path).code == 6
    assert cli("store", "check", "--out", tmp_path).code == 0


def test_every_table_is_looked_at() -> None:
    from bench.store import health

    assert health._CHECKS.keys() == seals.SEALED.keys()
