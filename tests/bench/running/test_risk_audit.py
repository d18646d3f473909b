"""The command `audit` on a real folder: honest, tampered, stopped, repeated, and misused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3

import pytest

from bench.store import seals, serialise
from bench.store.audit_record import load_audits
from bench.store.store import Store

EVALUATIONS = """
[evaluations.pgd_l2]
eps = [0.1, 0.5]
steps = 5
limit = 60
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_suite):
    """A tiny board ranked by PGD at 0.5."""
    from bench.running import pipeline
    from bench.running.prepare import Options

    place = tmp_path_factory.mktemp("audit")
    suite = write_suite(place / "tiny.toml", ["standard", "adversarial_training"], EVALUATIONS, epochs=4)
    pipeline.run(Options(suite=str(suite), narrow={"train_limit": 300}, out=place / "out", quiet=True))
    return place / "out"


@pytest.fixture
def out(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "out")


def flip_to_robust(out, count):
    """Count so many broken images of each row robust, with matching hashes: what a cheat would store."""
    flipped = 0
    with Store.open(out) as store:
        for run in store.plans.latest().rows:
            cell, column = run.evaluations["pgd_l2"], "pgd_l2_0.5_robust"
            table = store.table(cell)
            rows = table.index[~table[column].astype(bool)][:count]
            flipped += len(rows)
            table.loc[rows, column] = True
            data = serialise.pack_table(table, serialise.column_facts(store.arrow_table(cell)))
            sha = hashlib.sha256(data).hexdigest()
            with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
                db.execute("UPDATE chunks SET data=?, sha256=? WHERE cell=?", (data, sha, cell))
                db.row_factory = sqlite3.Row
                seals.seal(db, "chunks", "true", {})
    return flipped


def test_an_honest_board_is_confirmed_and_the_audit_is_stored(cli, out):
    finished = cli("audit", "--out", out, "--margin", "0.2")
    assert finished.code == 0, finished.err
    assert finished.out.splitlines()[-1].startswith("confirmed: ")
    assert "b = " in finished.out
    (record,) = load_audits(out).audits
    assert record.outcome == "confirmed"
    assert record.seed_source == "drawn"
    assert record.claim.attack["arguments"]["steps"] == 5, "the suite's attack, as it was set"
    assert record.claim.attack["arguments"]["eps"] == [0.5]
    assert record.claim.attack["seed"] != 0, "with fresh seeds"
    assert record.statement == finished.out.splitlines()[-1]
    again = cli("audit", "--out", out, "--margin", "0.2")
    assert again.out == finished.out, "the same claim has one audit: another try is no other answer"
    assert len(load_audits(out).audits) == 1


def test_another_seed_is_a_further_audit_and_is_said_to_be(cli, out):
    cli("audit", "--out", out, "--margin", "0.2", "--seed", "1")
    finished = cli("audit", "--out", out, "--margin", "0.2", "--seed", "2")
    assert "audit 2 of this claim" in finished.out
    assert [a.seed for a in load_audits(out).audits] == [1, 2]
    assert {a.seed_source for a in load_audits(out).audits} == {"given"}


def test_flags_that_were_flipped_to_robust_are_found(cli, out):
    assert flip_to_robust(out, 15) >= 15
    finished = cli("audit", "--out", out, "--margin", "0.1", "--seed", "3")
    assert finished.code == 3
    assert finished.out.splitlines()[-1].startswith("refuted: ")
    assert "fell at draw" in finished.out


def test_a_stopped_audit_goes_on(cli, out):
    first = cli("audit", "--out", out, "--margin", "0.2", "--seed", "4", "--max-images", "2")
    assert first.code == 75
    assert "not decided after 2 images" in first.out
    second = cli("audit", "--out", out, "--margin", "0.2", "--seed", "4")
    assert second.code == 0
    whole = cli("audit", "--out", out, "--margin", "0.2", "--seed", "5")
    assert whole.code == 0
    assert load_audits(out).audits[0].draws > 2


def test_one_row_with_another_attack_or_another_library(cli, out):
    finished = cli("audit", "--out", out, "--margin", "0.3", "--defense", "adversarial_training", "--attack", "apgd")
    assert finished.code in (0, 3), finished.err
    finished = cli("audit", "--out", out, "--margin", "0.3", "--defense", "adversarial_training", "--attack", "foolbox")
    assert finished.code in (0, 3), finished.err
    assert "pgd_l2 by foolbox" in finished.out.splitlines()[-1]
    first, second = load_audits(out).audits
    assert [m.run for m in first.claim.models] == ["adversarial_training seed 0"]
    assert first.claim.attack["evaluation"] == "apgd_l2"
    assert second.claim.attack["arguments"]["peer"] == "foolbox"


def test_an_attack_that_fails_counts_as_a_hit(cli, out, tmp_path):
    path = tmp_path / "crash.py"
    path.write_text(
        "import bench\n\n\n@bench.attack(source='a test')\n"
        "def crash(model, x, y, *, eps, norm='l2', seed=0):\n"
        '    """Fail."""\n    raise RuntimeError("no")\n'
    )
    finished = cli("audit", "--out", out, "--margin", "0.1", "--attack", "crash", "--include", path)
    assert finished.code == 3
    assert "failed: RuntimeError: no" in finished.out


def test_a_full_count_where_the_audit_would_need_almost_all(cli, out):
    finished = cli("audit", "--out", out, "--margin", "0.05")
    assert "all are attacked" in finished.out
    (record,) = load_audits(out).audits
    assert record.draws == record.claim.rule.images


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--margin", "0.0001"), 2, "margin"),
        (("--margin", "two"), 2, "margin"),
        (("--risk", "1/0"), 2, "risk"),
        (("--risk", "1"), 2, "risk"),
        (("--attack", "autoatack"), 2, "autoattack"),
        (("--defense", "lcnn"), 2, "--defense"),
    ],
)
def test_wrong_usage(cli, out, arguments, code, words):
    finished = cli("audit", "--out", out, *arguments)
    assert finished.code == code
    assert words in finished.err
    assert len(finished.err.splitlines()) == 1
    assert not load_audits(out).audits


def test_missing_weights_and_changed_audits_are_integrity_errors(cli, out):
    assert cli("audit", "--out", out, "--margin", "0.2", "--seed", "1").code == 0
    content = json.loads((out / "audit.json").read_text())
    content["audits"][0]["claim"]["margin"] = "0.1"
    (out / "audit.json").write_text(json.dumps(content))
    finished = cli("audit", "--out", out, "--margin", "0.2")
    assert finished.code == 3
    assert "changed claim" in finished.err
    (out / "audit.json").unlink()
    for file in (out / "weights").glob("*.safetensors"):
        file.unlink()
    finished = cli("audit", "--out", out, "--margin", "0.2")
    assert finished.code == 3
    assert "weights" in finished.err


# On the board, and with packs


def row_of(out, defense):
    rows = json.loads((out / "leaderboard.json").read_text())["rows"]
    return next(row for row in rows if row["defense"] == defense)


def test_an_audit_is_a_badge_on_its_rows_and_travels(cli, out, tmp_path):
    assert row_of(out, "standard")["audit"] is None
    finished = cli("audit", "--out", out, "--margin", "0.2", "--seed", "8")
    assert finished.code == 0, finished.err
    badge = row_of(out, "standard")["audit"]
    assert badge["outcome"] == "confirmed"
    assert (badge["seed"], badge["margin"], badge["risk"]) == (8, "0.2", "0.05")
    assert badge["statement"] == finished.out.splitlines()[-1]
    page = (out / "leaderboard.html").read_text()
    assert 'class="badge audit confirmed"' in page
    assert "Risk-limiting audits" in page
    assert cli("results", "pack", "--out", out, "--to", tmp_path / "pack").code == 0
    assert cli("results", "unpack", tmp_path / "pack", "--out", tmp_path / "back").code == 0
    assert row_of(tmp_path / "back", "standard")["audit"] == badge
    assert (tmp_path / "back" / "audit.json").read_bytes() == (out / "audit.json").read_bytes()


def test_the_reports_stay_as_they_were_but_for_the_badge(cli, out):
    assert cli("report", "--out", out, "--defense", "standard").code == 0
    command = ("audit", "--out", out, "--defense", "standard", "--margin", "0.2", "--seed", "8")
    assert cli(*command).code == 0
    (row,) = json.loads((out / "leaderboard.json").read_text())["rows"]
    assert (row["defense"], row["audit"]["outcome"]) == ("standard", "confirmed")
    before = {path: path.stat().st_mtime_ns for path in out.glob("leaderboard.*")}
    again = cli(*command)
    assert again.code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing has changed"


def test_a_refuted_audit_outweighs_confirmed_ones_and_a_stale_one_is_not_shown(cli, out):
    assert cli("audit", "--out", out, "--margin", "0.2", "--seed", "8").code == 0
    flip_to_robust(out, 15)
    cli("report", "--out", out)
    assert row_of(out, "standard")["audit"] is None, "it was about another list of images"
    assert cli("audit", "--out", out, "--margin", "0.1", "--seed", "3").code == 3
    assert row_of(out, "standard")["audit"]["outcome"] == "refuted"
    assert "audit refuted" in (out / "leaderboard.html").read_text()


def test_one_audited_row_says_nothing_of_another(cli, out):
    finished = cli("audit", "--out", out, "--margin", "0.3", "--defense", "standard", "--seed", "1")
    assert finished.code == 0, finished.err
    assert row_of(out, "standard")["audit"]["models"] == ["standard seed 0"]
    assert row_of(out, "adversarial_training")["audit"] is None


def test_a_pack_is_audited_without_being_changed(cli, out, tmp_path):
    pack = tmp_path / "pack"
    assert cli("results", "pack", "--out", out, "--to", pack, "--weights").code == 0
    before = {p.name: p.read_bytes() for p in pack.iterdir()}
    first = cli("audit", "--out", pack, "--margin", "0.2", "--seed", "4", "--max-images", "2")
    assert first.code == 75, first.err
    second = cli("audit", "--out", pack, "--margin", "0.2", "--seed", "4")
    assert second.code == 0, second.err
    assert {p.name: p.read_bytes() for p in pack.iterdir()} == before
    (record,) = load_audits(tmp_path / "pack-audit").audits
    assert record.outcome == "confirmed"
    assert str(tmp_path / "pack-audit" / "audit.json") in second.out


def test_a_pack_without_weights_cannot_be_audited(cli, out, tmp_path):
    assert cli("results", "pack", "--out", out, "--to", tmp_path / "pack").code == 0
    finished = cli("audit", "--out", tmp_path / "pack", "--margin", "0.2")
    assert finished.code == 3
    assert "weights" in finished.err
