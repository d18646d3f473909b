"""`verify`: an honest folder and its pack hold; whatever was changed is found, with cell and image."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3

import numpy as np
import pytest
import torch

from bench.running.verification.verify import VerifyOptions, verify
from bench.store import seals, serialise
from bench.store.store import Store
from benchmarks import verify as benchmark

COLUMN = "pgd_l2_0.5_robust"


@pytest.fixture
def out(weakly_attacked, tmp_path):
    return shutil.copytree(weakly_attacked, tmp_path / "out")


TRANSFER = """
[evaluations.accuracy]
limit = 30
[evaluations.autoattack_l2]
eps = [3.0]
limit = 30
[evaluations.breaking_l2]
eps = [3.0]
limit = 30
[evaluations.fmn_l2]
eps = [3.0]
limit = 30
steps = 20
"""


@pytest.fixture(scope="module")
def transferred(tmp_path_factory, write_suite):
    """A board whose rows were tried on each other's adversarial examples."""
    from bench.running import pipeline
    from bench.running.prepare import Options

    place = tmp_path_factory.mktemp("transferred")
    suite = write_suite(place / "tiny.toml", ["standard", "lcnn"], TRANSFER, primary_eps=3.0, epochs=4)
    pipeline.run(Options(suite=str(suite), narrow={"train_limit": 500}, out=place / "out", quiet=True))
    return place / "out"


def cell_of(out, key, place=0):
    with Store.open(out) as store:
        return store.plans.latest().rows[place].evaluations[key]


def change(out, key, table=None, images=None, place=0):
    """Change a cell's table and images in the store, with hashes that agree: what a cheat would store."""
    cell = cell_of(out, key, place)
    with Store.open(out) as store:
        frame, arrays, facts = store.table(cell), store.images(cell), serialise.column_facts(store.arrow_table(cell))
    if table:
        table(frame)
    values = {"data": serialise.pack_table(frame, facts)}
    if images:
        images(arrays)
        values["images"] = serialise.pack_arrays(arrays)
    for name, content in values.items():
        sha = {"data": "sha256", "images": "images_sha256"}[name]
        update(out, "chunks", "cell", cell, **{name: content, sha: hashlib.sha256(content).hexdigest()})


def update(out, table, key, value, **fields):
    """Change fields of some rows and seal them anew."""
    with contextlib.closing(sqlite3.connect(out / "bench.db", isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        names = ", ".join(f"{name}=:{name}" for name in fields)
        db.execute(f"UPDATE {table} SET {names} WHERE {key}=:value", {**fields, "value": value})
        seals.seal(db, table, f"{key}=:value", {"value": value})


def stored(out, table, key, value, field):
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db:
        return db.execute(f"SELECT {field} FROM {table} WHERE {key}=?", (value,)).fetchone()[0]


def failed(cli, out, *words):
    """Check that the folder does not hold, and that a complaint has all of some words."""
    done = cli("verify", "--out", out)
    assert done.code == 3, done.out + done.err
    assert any(all(word in line for word in words) for line in done.err.splitlines()), done.err
    assert "internal error" not in done.err
    return done


def test_an_honest_folder_holds_and_is_left_as_it_is(cli, weakly_attacked):
    before = {p: p.stat().st_mtime_ns for p in weakly_attacked.rglob("*") if p.is_file() and "bench.db" not in p.name}
    done = cli("verify", "--out", weakly_attacked)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].endswith("adversarial examples against 2 models, 6 cells; failed: 0")
    assert int(done.out.splitlines()[-1].split()[1]) > 20
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_a_pack_needs_nothing_else(cli, transferred, tmp_path, monkeypatch):
    assert cli("results", "pack", "--out", transferred, "--to", tmp_path / "p", "--weights", "--pictures").code == 0
    monkeypatch.chdir(tmp_path)
    before = {p.name: p.read_bytes() for p in (tmp_path / "p").iterdir()}
    done = cli("verify", "--out", tmp_path / "p")
    assert done.code == 0, done.err
    assert "failed: 0" in done.out
    assert {p.name: p.read_bytes() for p in (tmp_path / "p").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p"]


def test_a_pack_with_the_weights_of_some_rows_proves_those(cli, transferred, tmp_path):
    """Of the others nothing is proved, and that is said; who asks for one of them gets no "holds"."""
    with Store.open(transferred) as store:
        here, away = (run.defense for run in store.plans.board().plan.rows)
    pack = tmp_path / "p"
    assert cli("results", "pack", "--out", transferred, "--to", pack, "--weights", "--defense", here).code == 0
    done = cli("verify", "--out", pack)
    assert done.code == 0, done.err
    assert "the weights of 1 of 2 models did not travel: what is said of them is as stored" in done.out
    assert done.out.splitlines()[-1].endswith("failed: 0")
    assert "not proved: " in done.out
    assert cli("verify", "--out", pack, "--defense", here).code == 0
    refused = cli("verify", "--out", pack, "--defense", away)
    assert refused.code == 3
    assert "they were left out when the results were packed" in refused.err


def test_a_pack_says_what_did_not_travel(cli, transferred, tmp_path):
    assert cli("results", "pack", "--out", transferred, "--to", tmp_path / "p").code == 0
    failed(cli, tmp_path / "p", "no file", "weights")
    assert cli("results", "pack", "--out", transferred, "--to", tmp_path / "w", "--weights").code == 0
    done = cli("verify", "--out", tmp_path / "w")
    assert done.code == 0, done.err
    assert "did not travel" in done.out
    assert "left out" in done.err


def test_thousands_are_scored_per_minute(weakly_attacked):
    measured = benchmark.of_folder(weakly_attacked)
    fixed_cost = 3.0  # seconds of reading, loading and comparing, whatever the number of examples
    assert measured["failed"] == 0
    assert measured["examples"] > (measured["cpu_seconds"] - fixed_cost) * 2000 / 60
    assert benchmark.of_scoring(2)["examples"] == 2


def test_what_an_older_board_does_not_show_is_one_note_per_file(cli, out):
    board = json.loads((out / "leaderboard.json").read_text())
    for row in board["rows"]:
        del row["title"], row["venue"]
    (out / "leaderboard.json").write_text(json.dumps(board))
    done = cli("verify", "--out", out)
    assert done.code == 0, done.err
    assert (
        "note: leaderboard.json: without what this version of bench also shows: title, venue" in done.err.splitlines()
    )
    assert done.err.count("leaderboard.json") == 1


def hide(frame, column=COLUMN):
    """Count a broken image robust."""
    row = frame.index[~frame[column].astype(bool) & (frame[column.replace("robust", "broken_by")] != "clean")][0]
    frame.loc[row, column] = True
    return int(frame.loc[row, "index"])


def test_a_flag_that_its_own_example_refutes(cli, out):
    change(out, "pgd_l2", table=hide)
    failed(cli, out, "standard seed 0: pgd_l2 (cell", "image", "stored adversarial examples")


def test_a_robust_image_that_is_counted_broken(cli, out):
    def invent(frame):
        row = frame.index[frame[COLUMN].astype(bool)][0]
        frame.loc[row, COLUMN], frame.loc[row, "pgd_l2_0.5_broken_by"] = False, "pgd_l2"

    change(out, "pgd_l2", table=invent)
    failed(cli, out, "pgd_l2", "image", "got 0")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("far", "outside the ball"),
        ("out of the box", "outside the box"),
        ("nan", "NaN"),
        ("clean", "not misclassified"),
        ("another clean image", "clean image"),
        ("prediction", "the class"),
    ],
)
def test_an_example_that_is_none(cli, out, name, words):
    def spoil(arrays):
        image = arrays["adversarial"]
        if name == "far":
            image[0] = np.where(image[0] > 0.5, 0, 1)
        elif name == "out of the box":
            image[0, 0, 0, 0] = -0.01
        elif name == "nan":
            image[0, 0, 0, 0] = np.nan
        elif name == "clean":
            image[0] = arrays["clean"][0]
        elif name == "another clean image":
            arrays["clean"][0] = arrays["clean"][1]
        else:
            arrays["prediction"][0] = 9 if arrays["prediction"][0] != 9 else 8

    change(out, "pgd_l2", images=spoil)
    failed(cli, out, "standard seed 0: pgd_l2", "image", words)


def test_a_distance_that_was_changed(cli, out):
    def shorten(frame):
        frame.loc[frame["pgd_l2_0.5_distance"] > 0, "pgd_l2_0.5_distance"] /= 2

    change(out, "pgd_l2", table=shorten)
    failed(cli, out, "image", "distance")


def test_a_clean_flag_and_a_label_that_were_changed(cli, out):
    def improve(frame):
        frame.loc[~frame["clean_correct"], "clean_correct"] = True

    change(out, "accuracy", table=improve)
    failed(cli, out, "accuracy", "image", "clean_correct")


def test_a_label_that_another_table_contradicts(cli, out):
    def relabel(frame):
        frame.loc[3, "label"] = (frame.loc[3, "label"] + 1) % 10

    change(out, "pgd_l2", table=relabel)
    done = cli("verify", "--out", out)
    assert done.code in (3, 6)
    assert "label" in done.err


def test_a_verdict_on_other_rows_examples_that_was_changed(cli, transferred, tmp_path):
    out = shutil.copytree(transferred, tmp_path / "out")

    def improve(frame):
        frame.loc[~frame["transfer_l2_3_robust"], ["transfer_l2_3_robust", "transfer_l2_3_broken_by"]] = [True, ""]

    change(out, "transfer_l2", table=improve)
    failed(cli, out, "transfer_l2", "image", "transfer_l2_3_robust")


def test_a_breaking_distance_that_was_changed(cli, transferred, tmp_path):
    out = shutil.copytree(transferred, tmp_path / "out")

    def farther(frame):
        frame["breaking_l2_3_distance"] *= 1.01

    change(out, "breaking_l2", table=farther)
    failed(cli, out, "breaking_l2", "image", "breaking_l2_3_distance")


def test_weights_of_another_row(cli, out):
    with Store.open(out) as store:
        first, second = (store.cell(run.train_cell) for run in store.plans.latest().rows)
    update(out, "cells", "id", first.id, info=json.dumps(dict(first.info) | {"weights": second.info["weights"]}))
    failed(cli, out, "standard seed 0", "weights")


def test_a_flipped_bit_in_weights_in_a_chunk_and_in_a_description(cli, out, tmp_path):
    path = next((out / "weights").glob("*.safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    failed(cli, out, "train", "SHA-256")
    path.write_bytes(content)
    cell = cell_of(out, "accuracy")
    spec = stored(out, "cells", "id", cell, "spec")
    update(out, "cells", "id", cell, spec=spec.replace('"seed":0', '"seed":1'))
    failed(cli, out, "accuracy", "that its id names")
    update(out, "cells", "id", cell, spec=spec)
    update(out, "chunks", "cell", cell, sha256="0" * 64)
    failed(cli, out, "SHA-256")


def test_an_epoch_that_was_changed(cli, out):
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
        db.execute("UPDATE epochs SET record='{}' WHERE rowid=1")
    failed(cli, out, "seed 0: train (cell", "epoch 1 of cell")


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("INSERT INTO plans (plan, seal, used) SELECT plan, 'other', 0 FROM plans", "plan 2"),
        ("INSERT INTO bindings VALUES (7, 0, 'pgd_l2', 'x', 'other')", "the cell of 'pgd_l2' in plan 7"),
        ("INSERT INTO cells (id, kind, spec, status) VALUES ('stray', 'other', '{}', 'done')", "cell stray"),
        ("INSERT INTO chunks VALUES ('stray', 4, x'00', 'x', NULL, NULL, '{}', 'other')", "chunk 4 of cell stray"),
        ("INSERT INTO epochs VALUES ('stray', 5, '{}', 'other')", "epoch 5 of cell stray"),
    ],
)
def test_damage_outside_the_board_is_found(cli, out, sql, named):
    """Above all in the plan of an earlier command, whose rows the board would show no more."""
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
        db.execute(sql)
    done = failed(cli, out, named, "expected a record as it was written")
    assert done.out.splitlines()[-1].endswith("failed: 1")


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"plan": "{}"}, "expected a sound plan"), ({"plan": '{"format": 1}'}, "expected plan format")],
)
def test_an_earlier_plan_that_cannot_be_read_is_said_although_its_seal_agrees(cli, out, fields, said):
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
        db.execute("INSERT INTO plans (plan, used) SELECT plan, 0 FROM plans")
    update(out, "plans", "id", 2, **fields)
    done = cli("verify", "--out", out)
    assert done.code == (3 if "sound" in said else 0), done.err  # another version's plan is no damage
    assert f"plan 2: {out / 'bench.db'}: {said}" in done.err


def test_a_copy_of_the_adversarial_examples_that_was_changed_is_found(cli, out):
    path = next((out / "weights").glob("*.adversarial.safetensors.z"))
    arrays = serialise.unpack_arrays(path.read_bytes())
    arrays["adversarial"][0, 0, 0, 0] += 0.01
    path.write_bytes(serialise.pack_arrays(arrays))
    failed(cli, out, f"weights/{path.name}", "expected the adversarial examples of the store")
    path.write_bytes(b"other")
    assert failed(cli, out, f"weights/{path.name}").out.splitlines()[-1].endswith("failed: 1")


def test_damaged_files_outside_the_board_are_found(cli, out):
    (out / "weights" / f"{'0' * 64}.safetensors").write_bytes(b"other")
    (out / "checkpoints").mkdir(exist_ok=True)
    (out / "checkpoints" / "x.pt").write_bytes(b"other")
    failed(cli, out, f"weights/{'0' * 64}.safetensors", "expected SHA-256")
    assert failed(cli, out, "checkpoints/x.pt", "whole").out.splitlines()[-1].endswith("failed: 2")


@pytest.mark.parametrize("name", ["leaderboard.json", "leaderboard.csv"])
def test_a_board_that_does_not_follow_from_the_store(cli, out, name):
    text = (out / name).read_text()
    with Store.open(out) as store:
        from bench.reports.board.build import build

        value = build(store).rows[0].cells["pgd_l2_0.5"].value
    (out / name).write_text(text.replace(repr(value), repr(value + 0.1)))
    failed(cli, out, name, "pgd_l2_0.5", "by the store")


def test_challenges_are_scored_again(cli, out, tmp_path):
    from bench.store.challenge_record import challenge_paths, load_challenge_images, save_challenge

    cell = cell_of(out, "pgd_l2")
    with Store.open(out) as store:
        images = store.images(cell)
        table = store.table(cell).set_index("index")
    index = np.array([i for i in images["index"] if not table.loc[i, COLUMN]][:1])
    row = np.flatnonzero(images["index"] == index[0])[-1:]
    np.savez(tmp_path / "a.npz", index=index, x_adv=images["adversarial"][row])
    assert cli("challenge", "--out", out, "--defense", "standard", tmp_path / "a.npz").code == 0
    done = cli("verify", "--out", out)
    assert done.code == 0, done.err
    (path,) = challenge_paths(out)
    record, arrays = load_challenge_images(path)
    path.unlink()
    save_challenge(out, record, {**arrays, "adversarial": arrays["clean"]})
    failed(cli, out, "challenge", f"image {index[0]}", "not misclassified")


def test_a_row_whose_code_is_not_here_is_said_and_can_be_left_out(cli, out):
    content = json.loads(stored(out, "plans", "id", 1, "plan"))
    content["rows"][1]["base"] = "theirs"
    content["environment"]["included"] = [{"file": "theirs.py", "sha256": "a" * 64}]
    update(out, "plans", "id", 1, plan=json.dumps(content))
    done = cli("verify", "--out", out)
    assert done.code == 2
    assert "expected the code of theirs" in done.err
    assert "theirs.py (SHA-256 aaaaaaaaaaaa)" in done.err
    assert "--include" in done.err
    done = cli("verify", "--out", out, "--defense", "standard")
    assert done.code == 0, done.err
    assert "against 1 models" in done.out
    assert cli("verify", "--out", out, "--defense", "standrd").code == 2


def test_a_plan_that_names_other_test_images_cannot_hide_a_clean_flag(cli, out):
    content = json.loads(stored(out, "plans", "id", 1, "plan"))
    content["data"]["test"]["fingerprint"] = "0" * 64
    update(out, "plans", "id", 1, plan=json.dumps(content))
    failed(cli, out, "data: ", "digits: expected test images with SHA-256 000000000000")


def test_a_plan_that_names_an_enormous_network_takes_no_memory(cli, out):
    content = json.loads(stored(out, "plans", "id", 1, "plan"))
    content["rows"][0]["backbone"] = "convnet-w200000"
    update(out, "plans", "id", 1, plan=json.dumps(content))
    failed(cli, out, "standard seed 0", "expected a network whose weights fit into")


RANKED = """
[evaluations.accuracy]
limit = 30
[evaluations.pgd_l2]
eps = [0.5, 1.5]
steps = 5
limit = 30
"""


@pytest.fixture(scope="module")
def ranked_by_pgd(tmp_path_factory, write_suite):
    """A board that PGD ranks, at 1.5, and that leaves `store_adversarial` at its default."""
    from bench.running import pipeline
    from bench.running.prepare import Options

    place = tmp_path_factory.mktemp("ranked")
    suite = write_suite(place / "tiny.toml", ["standard", "lcnn"], RANKED, primary_eps=1.5, epochs=4)
    pipeline.run(Options(suite=str(suite), narrow={"train_limit": 500}, out=place / "out", quiet=True))
    return place / "out"


def broken(out, column):
    """Return how many images of each row an attack has broken."""
    found = []
    with Store.open(out) as store:
        for run in store.plans.latest().rows:
            table = store.table(run.evaluations["pgd_l2"])
            stages = table[column.replace("robust", "broken_by")]
            found.append(int((~table[column].astype(bool) & (stages != "clean")).sum()))
    return found


def test_the_ranking_columns_flags_are_proved_whoever_ranks(cli, ranked_by_pgd):
    ranking, other = broken(ranked_by_pgd, "pgd_l2_1.5_robust"), broken(ranked_by_pgd, "pgd_l2_0.5_robust")
    assert min(ranking) > 0
    found = verify(VerifyOptions(ranked_by_pgd))
    assert not found.findings
    assert found.examples == sum(ranking)
    assert found.unproved["pgd_l2_1.5_robust"] == 0
    assert found.proved >= sum(ranking), "an example within 0.5 of its image proves the flag at 0.5 as well"
    assert found.proved + found.unproved["pgd_l2_0.5_robust"] == sum(ranking) + sum(other)
    done = cli("verify", "--out", ranked_by_pgd)
    assert f"proved by a stored adversarial example: {found.proved}, not proved: " in done.out


@pytest.mark.parametrize("way", ["none stored", "left out of a pack", "other rows only"])
def test_flags_without_an_example_are_said_to_be_unproved(cli, ranked_by_pgd, tmp_path, write_suite, way):
    if way == "none stored":
        suite = write_suite(tmp_path / "tiny.toml", ["standard"], RANKED, primary_eps=1.5, epochs=1)
        suite.write_text('store_adversarial = "none"\n' + suite.read_text())
        out = tmp_path / "out"
        assert cli("run", "--suite", suite, "--out", out, "--train-limit", 500, "--limit", 10, "--quiet").code == 0
    else:
        out = tmp_path / "pack"
        assert cli("results", "pack", "--out", ranked_by_pgd, "--to", out, "--weights").code == 0
    options = ["--defense", "standard"] if way == "other rows only" else []
    done = cli("verify", "--out", out, *options)
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if line.startswith("not proved: ")]
    assert "pgd_l2_1.5_robust" in line
    assert "0 adversarial examples against" in done.out if way == "none stored" else "did not travel" in done.out


def test_a_challenge_proves_the_flag_of_its_image(cli, ranked_by_pgd, tmp_path):
    out = shutil.copytree(ranked_by_pgd, tmp_path / "out")
    before = verify(VerifyOptions(out)).unproved["pgd_l2_0.5_robust"]
    from bench.api.results import load_model
    from bench.attacks.pgd import pgd
    from bench.data import catalog

    with Store.open(out) as store:
        run = store.plans.latest().rows[0]
        table = store.table(run.evaluations["pgd_l2"])
    index = table.loc[~table["pgd_l2_0.5_robust"] & (table["pgd_l2_0.5_broken_by"] != "clean"), "index"].to_numpy()
    test = catalog.load("digits").test
    x, y = torch.tensor(test.pixels()[index]), torch.tensor(test.labels[index])
    x_adv = pgd(load_model("standard", seed=0, out=out), x, y, eps=0.5, norm="l2", seed=1, steps=40)
    np.savez(tmp_path / "a.npz", index=index, x_adv=x_adv.numpy())
    done = cli("challenge", "--out", out, "--defense", "standard", "--eps", "0.5", tmp_path / "a.npz")
    accepted = int(done.out.splitlines()[-1].split()[1].rstrip(","))
    assert accepted > 0, done.err
    assert verify(VerifyOptions(out)).unproved["pgd_l2_0.5_robust"] <= before
