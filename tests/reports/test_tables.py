"""The board from a real store: names, numbers, ranks, and what is missing, failed, partial or invalid."""

from __future__ import annotations

import json
from math import floor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.core.errors import StoreError
from bench.core.records import Grade
from bench.core.stats.intervals import clopper_pearson, wilson
from bench.core.stats.means import mean_interval
from bench.reports.board.build import build
from bench.reports.board.model import Board, Row
from bench.reports.exports import csv
from bench.reports.exports.json import json_text
from bench.reports.exports.latex import latex_text
from bench.reports.exports.manifest import manifest
from bench.reports.exports.markdown import markdown_text
from bench.reports.exports.terminal import board_table
from bench.reports.html import page
from bench.reports.html.headline import headline
from bench.store.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, fabricate: ModuleType) -> Path:
    """A finished folder with a train-split evaluation and one on fewer images."""
    out = tmp_path_factory.mktemp("done")
    extra = {"curvature_train": {"evaluation": "curvature", "split": "train", "limit": 60}}
    fabricate.make_store(out, fabricate.make_plan(**extra, again={"evaluation": "accuracy", "limit": 40}))
    return out


@pytest.fixture(scope="module")
def board(folder: Path) -> Board:
    """Its board."""
    with Store.open(folder) as store:
        return build(store)


def rows_of(board: Board) -> dict[str, Row]:
    return {row.defense: row for row in board.rows}


def changed(fabricate: ModuleType, out: Path, plan: dict[str, Any], tables: dict[tuple[str, str, int], Any]) -> Board:
    """Return the board of a store in which some cells' tables are others; None: no such cell, str: failed so."""
    with Store.open(out, create=True) as store:
        number = store.plans.put(fabricate.record(plan))
        for place, row in enumerate(plan["rows"]):
            name, seed = row["defense"], row["seed"]
            for key, facts in plan["evaluations"].items():
                size = 120 if facts["limit"] is None else facts["limit"]
                usual = fabricate.table_of(facts["evaluation"], name, seed, size, fabricate.DEFENSES.get(name, 0.3))
                table = tables.get((key, name, seed), usual)
                cell = fabricate.name_of(key, name, seed)
                if table is None:
                    continue
                if isinstance(table, str):
                    lease = store.leases.claim(cell, "evaluation", {})
                    assert lease is not None
                    store.fail(lease, table)
                else:
                    fabricate.write_cell(store, cell, "evaluation", {"images": size, **fabricate.times(1.0)}, [table])
                store.plans.bind_all([(number, place, key, cell)])
        return build(store)


def test_columns_follow_the_plan(board: Board) -> None:
    names = [column.name for column in board.columns]
    assert names[:6] == ["rank", "rank_low", "rank_high", "defense", "seeds", "n"]
    measured = names[6 : names.index("bound_violations")]
    assert measured == [
        "clean_accuracy", "pgd_l2_0.05", "pgd_l2_0.1", "pgd_l2_0.5", "autoattack_l2_0.5", "again_clean_accuracy",
        "stability_0.01", "stability_0.1", "gradient_norm", "hessian_norm", "curvature",
        "train_gradient_norm", "train_hessian_norm", "train_curvature",
    ]  # fmt: skip
    assert names[-12:] == [
        "train_flops", "train_seconds", "train_cost", "eval_seconds", "eval_forwards", "eval_backwards",
        "title", "architecture", "parameters", "venue", "year", "link",
    ]  # fmt: skip
    by_name = {column.name: column for column in board.columns}
    assert by_name["stability_0.1"].level == 0.1
    assert by_name["pgd_l2_0.5"].example_column == "pgd_l2_0.5_robust"
    assert by_name["train_curvature"].evaluation == "curvature_train"


def test_values_are_means_over_seeds_of_the_seeds_own(board: Board, fabricate: ModuleType) -> None:
    for name, row in rows_of(board).items():
        tables = [fabricate.table_of("pgd_l2", name, seed, 120, fabricate.DEFENSES[name]) for seed in (0, 1)]
        own = [table["pgd_l2_0.1_robust"].mean() for table in tables]
        cell = row.cells["pgd_l2_0.1"]
        assert list(cell.by_seed.values()) == own
        assert cell.value == pytest.approx(np.mean(own), rel=1e-15)
        assert (cell.low, cell.high) == wilson(floor(np.mean(own) * 120 + 0.5 + 1e-9), 120)
        assert (cell.n, cell.nulls) == (120, 0)


def test_missing_values_are_counted_and_left_out(board: Board, fabricate: ModuleType) -> None:
    row = rows_of(board)["standard"]
    tables = [fabricate.table_of("curvature", "standard", seed, 120, 0.2) for seed in (0, 1)]
    cell = row.cells["curvature"]
    assert cell.nulls == sum(int(t["curvature"].isna().sum()) for t in tables) > 0
    assert cell.value == pytest.approx(np.mean([t["curvature"].mean() for t in tables]), rel=1e-14)
    per_image = pd.concat([t.set_index("index")["curvature"] for t in tables], axis=1).mean(axis=1).dropna()
    assert (cell.low, cell.high) == pytest.approx(mean_interval(per_image.to_numpy()), rel=1e-12)


def test_training_images_have_their_own_table(board: Board) -> None:
    assert set(board.train_examples.columns[:4]) == {"defense", "seed", "index", "label"}
    assert all(name.startswith("train_") for name in board.train_examples.columns[4:])
    assert not any(name.startswith("train_") for name in board.examples)
    assert len(board.train_examples) == 8 * 60
    assert rows_of(board)["lcnn"].cells["train_curvature"].n == 60


def test_a_second_evaluation_of_one_name_keeps_its_own_columns(board: Board) -> None:
    row = rows_of(board)["lcnn"]
    assert row.cells["again_clean_accuracy"].n == 40
    assert row.cells["clean_accuracy"].n == 120
    assert board.examples["again_clean_correct"].notna().sum() == 8 * 40
    assert str(board.examples["again_clean_correct"].dtype) == "boolean"


def test_examples_hold_one_row_per_defense_seed_and_image(board: Board) -> None:
    assert list(board.examples.columns[:4]) == ["defense", "seed", "index", "label"]
    assert not board.examples.duplicated(["defense", "seed", "index"]).any()
    assert len(board.examples) == 4 * 2 * 120
    assert board.examples["clean_correct"].dtype == bool
    assert (board.examples["label"] == board.examples["index"] % 10).all()


def test_rows_are_ranked_by_autoattack_at_the_primary_budget(board: Board) -> None:
    assert board.ranking == "autoattack_l2_0.5"
    values = [row.cells[board.ranking].value for row in board.rows]
    assert values == sorted(values, reverse=True)
    assert [row.rank for row in board.rows] == [1, 2, 3, 4]
    assert all(row.rank_low <= row.rank <= row.rank_high for row in board.rows)
    assert board.rows[0].defense == "gradreg"
    assert (board.rows[0].rank_low, board.rows[0].rank_high) == (1, 1)
    assert [(p.a, p.b) for p in board.pairs[:3]] == [("gradreg", row.defense) for row in board.rows[1:]]
    assert all(p.p_holm >= p.p for p in board.pairs)


def test_costs_are_relative_to_standard(board: Board) -> None:
    rows = rows_of(board)
    assert rows["standard"].train_cost == 1.0
    assert rows["gradreg"].train_seconds == pytest.approx(4 * 0.5 * 1.5)
    assert rows["gradreg"].train_cost == pytest.approx(0.5 / 0.2)
    assert rows["gradreg"].train_flops == pytest.approx(0.5 / 0.2)
    assert rows["gradreg"].train_time.by_seed == pytest.approx({0: 2.5, 1: 2.5})
    assert rows["gradreg"].eval_seconds == pytest.approx(8 * 3.0)
    assert rows["gradreg"].eval_forwards == 40 * (6 * 120 + 60 + 40)


def test_anchors_are_safe_and_distinct(board: Board) -> None:
    anchors = [row.anchor for row in board.rows]
    assert len(set(anchors)) == 4
    assert all(set(a) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for a in anchors)


def test_pgd_ranks_where_autoattack_was_not_run(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan(evaluations=("accuracy", "pgd_l2"), primary_eps=0.1)
    fabricate.make_store(tmp_path, plan)
    with Store.open(tmp_path) as store:
        assert build(store).ranking == "pgd_l2_0.1"


def test_nothing_ranks_without_a_budget(tmp_path: Path, fabricate: ModuleType) -> None:
    fabricate.make_store(tmp_path, fabricate.make_plan(evaluations=("accuracy", "curvature"), primary_eps=None))
    with Store.open(tmp_path) as store:
        board = build(store)
    assert (board.ranking, board.resolvable, board.pairs) == ("", None, ())
    assert all(row.rank is None and row.unranked and row.n == 120 for row in board.rows)


def test_failed_and_missing_cells_are_shown_with_what_there_is(tmp_path: Path, fabricate: ModuleType) -> None:
    board = changed(
        fabricate,
        tmp_path,
        fabricate.make_plan(),
        {
            ("autoattack_l2", "lcnn", 0): "logits are NaN",
            ("autoattack_l2", "lcnn", 1): None,
            ("curvature", "gradreg", 1): None,
        },
    )
    rows = rows_of(board)
    lcnn = rows["lcnn"]
    assert lcnn.rank is None
    assert lcnn.unranked == "incomplete: 0 of 2 seeds (autoattack_l2 on 0 of 2 seeds)"
    assert lcnn.failures == ("autoattack_l2, seed 0: logits are NaN",)
    assert "autoattack_l2, seed 1: 0 images so far" in lcnn.missing
    assert lcnn.cells["clean_accuracy"].value is not None
    assert "autoattack_l2_0.5" not in lcnn.cells
    assert {board.rows[-1].defense, board.rows[-2].defense} == {"lcnn", "gradreg"}
    assert list(rows["gradreg"].cells["curvature"].by_seed) == [0]
    assert (rows["gradreg"].rank, rows["gradreg"].incomplete) == (None, "1 of 2 seeds (curvature on 1 of 2 seeds)")
    assert rows["gradreg"].train_seconds is None  # no training is stored here
    assert "training, seed 0: 0 epochs so far" in rows["gradreg"].missing


def test_a_half_evaluated_row_is_shown_and_not_ranked(tmp_path: Path, fabricate: ModuleType) -> None:
    half = fabricate.table_of("autoattack_l2", "gradreg", 1, 50, 0.5)
    board = changed(fabricate, tmp_path, fabricate.make_plan(), {("autoattack_l2", "gradreg", 1): half})
    row = rows_of(board)["gradreg"]
    assert row.rank is None
    assert row.unranked == "incomplete: 1 of 2 seeds (autoattack_l2 on 1 of 2 seeds, 50 of 120 images)"
    assert row.n == 120
    plan = fabricate.make_plan(seeds=(0,))
    half = fabricate.table_of("autoattack_l2", "gradreg", 0, 50, 0.5)
    board = changed(fabricate, tmp_path / "one", plan, {("autoattack_l2", "gradreg", 0): half})
    row = rows_of(board)["gradreg"]
    assert row.unranked == "incomplete: 0 of 1 seed (autoattack_l2 on 50 of 120 images)"
    assert row.n == 50


def test_a_mean_over_the_seeds_that_did_not_fail_is_not_ranked(tmp_path: Path, fabricate: ModuleType) -> None:
    """The best defense of all, three of whose four seeds failed, stands below complete rows, with its count."""
    plan = fabricate.make_plan(seeds=(0, 1, 2, 3), evaluations=("accuracy", "autoattack_l2"))
    failed = {(key, "gradreg", seed): "no memory" for key in plan["evaluations"] for seed in (1, 2, 3)}
    board = changed(fabricate, tmp_path, plan, failed)
    row = board.rows[-1]
    assert (row.defense, row.rank, row.rank_low, row.incomplete) == ("gradreg", None, None, "1 of 4 seeds")
    assert row.unranked == "incomplete: 1 of 4 seeds"
    assert (len(row.seeds), row.planned_seeds) == (1, 4)
    assert [r.rank for r in board.rows] == [1, 2, 3, None]
    assert all(r.rank_high <= 3 for r in board.rows[:3])
    assert not any("gradreg" in (pair.a, pair.b) for pair in board.pairs)
    lines = csv.csv_text(board).splitlines()
    assert lines[-1].startswith(",,,gradreg,1,")
    assert json.loads(json_text(board))["rows"][-1]["incomplete"] == "1 of 4 seeds"
    assert "gradreg: incomplete: 1 of 4 seeds" in manifest(board)["notes"]
    assert r"gradreg (1 of 4 seeds)" in latex_text(board).partition("\\midrule\n")[2].partition("\\midrule\n")[2]
    assert "gradreg: incomplete: 1 of 4 seeds" in str(board_table(board).caption)
    assert 'id="incomplete-title"' in page.render(board)
    assert "gradreg" not in headline(board)


def test_half_a_run_ranks_what_is_complete(tmp_path: Path, fabricate: ModuleType) -> None:
    """A report during a run: one row whole, one begun, one whose chunks are half there, one not begun."""
    plan = fabricate.make_plan(seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    names = list(fabricate.DEFENSES)
    with Store.open(tmp_path, create=True) as store:
        number = store.plans.put(fabricate.record(plan))
        for place, keys in enumerate((plan["evaluations"], ("accuracy",), plan["evaluations"])):
            for key in keys:
                table, cell = fabricate.table_of(key, names[place], 0, 120, 0.9), fabricate.name_of(key, place)
                if place == 2:  # still running: a chunk is there, the cell is not finished
                    lease = store.leases.claim(cell, "evaluation", {})
                    assert lease is not None
                    store.put_chunk(lease, 0, table[:50], None, {}, fabricate.facts_of(table))
                else:
                    fabricate.write_cell(store, cell, "evaluation", {}, [table])
                store.plans.bind_all([(number, place, key, cell)])
        rows = rows_of(build(store))
    assert [(rows[name].rank, rows[name].incomplete) for name in names] == [
        (1, ""),
        (None, "0 of 1 seed (autoattack_l2 missing)"),
        (None, "0 of 1 seed (accuracy and autoattack_l2 on 50 of 120 images)"),
        (None, "0 of 1 seed (accuracy and autoattack_l2 missing)"),
    ]


def test_rows_that_are_all_half_finished_are_not_ranked(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan(seeds=(0,), evaluations=("autoattack_l2",))
    with Store.open(tmp_path, create=True) as store:
        number = store.plans.put(fabricate.record(plan))
        for place, name in enumerate(fabricate.DEFENSES):
            cell = fabricate.name_of(name)
            lease = store.leases.claim(cell, "evaluation", {})
            assert lease is not None
            table = fabricate.table_of("autoattack_l2", name, 0, 50, 0.3)
            store.put_chunk(lease, 0, table, None, {}, fabricate.facts_of(table))
            store.plans.bind_all([(number, place, "autoattack_l2", cell)])
        board = build(store)
    assert all(row.rank is None and row.incomplete.startswith("0 of 1 seed") for row in board.rows)
    assert board.pairs == ()


def test_headings_say_n_where_columns_are_on_different_images(
    board: Board, tmp_path: Path, fabricate: ModuleType
) -> None:
    """AutoAttack on 64 images beside PGD on 120 looks weaker than it is: every view says so."""
    short = {"autoattack_l2": {"evaluation": "autoattack_l2", "limit": 64}}
    plan = fabricate.make_plan(seeds=(0,), evaluations=("accuracy", "pgd_l2"), **short)
    fabricate.make_store(tmp_path, plan)
    with Store.open(tmp_path) as store:
        mixed = build(store)
    columns = {c.name: c for c in mixed.columns}
    assert mixed.images_note(columns["autoattack_l2_0.5"]) == "n\u00a0=\u00a064"
    assert mixed.images_note(columns["pgd_l2_0.1"]) == "n\u00a0=\u00a0120"
    assert mixed.images_note(columns["rank"]) == ""
    html = page.render(mixed)
    assert html.count("ε\u00a00.5, %, n\u00a0=\u00a064") == html.count("ε\u00a00.5, %, n\u00a0=\u00a0") // 2 > 0
    assert "compare numbers within a column, not across" in html
    assert "Rank & Defense & n = 120 & n = 64 &" in latex_text(mixed)
    heads = [str(c.header) for c in board_table(mixed).columns]
    assert "clean %, n\u00a0=\u00a0120" in heads
    assert "autoattack_l2_0.5 %, n\u00a0=\u00a064" in heads
    data = json.loads(json_text(mixed))
    assert {c["name"]: c["images"] for c in data["columns"]}["autoattack_l2_0.5"] == 64
    notes = "\n".join(data["notes"])
    assert "autoattack_l2_0.5: measured on 64 images" in notes
    assert data["notes"] == manifest(mixed)["notes"]
    assert "compare within a column only" in markdown_text(mixed)
    fabricate.make_store(tmp_path / "same", fabricate.make_plan(seeds=(0,)))
    with Store.open(tmp_path / "same") as store:
        same = build(store)
    assert (same.notes, {same.images_note(c) for c in same.columns}) == ([], {""})


def test_bound_violations_make_a_row_invalid(tmp_path: Path, fabricate: ModuleType) -> None:
    table = fabricate.table_of("bounds", "gradreg", 1, 120, 0.5)
    table.loc[[3, 7], "bound_violations"] = [1.0, 2.0]
    nothing = table.assign(bound_violations=np.nan)
    board = changed(
        fabricate,
        tmp_path,
        fabricate.make_plan(),
        {("bounds", "gradreg", 1): table, ("bounds", "lcnn", 0): nothing, ("bounds", "lcnn", 1): nothing},
    )
    rows = rows_of(board)
    assert (rows["gradreg"].bound_violations, rows["gradreg"].trust) == (3, Grade.INVALID)
    assert (rows["gradreg"].rank, rows["gradreg"].unranked) == (None, "invalid: 3 proved bounds violated")
    assert rows["lcnn"].bound_violations is None  # not applicable, not zero
    assert rows["standard"].bound_violations == 0
    assert [row.rank for row in board.rows] == [1, 2, 3, None]
    assert "trust" in [column.name for column in board.columns]


def test_missing_flags_are_neither_true_nor_false(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan(seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    table = fabricate.table_of("accuracy", "lcnn", 0, 120, 0.24)
    flags = table["clean_correct"].astype("object")
    flags[:20] = None
    board = changed(fabricate, tmp_path, plan, {("accuracy", "lcnn", 0): table.assign(clean_correct=flags)})
    cell = rows_of(board)["lcnn"].cells["clean_accuracy"]
    assert (cell.n, cell.nulls) == (100, 20)
    assert cell.value == pytest.approx(table["clean_correct"][20:].mean())
    assert str(board.examples["clean_correct"].dtype) == "boolean"


def test_all_or_no_image_robust_has_an_exact_interval(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan(seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    table = fabricate.table_of("accuracy", "lcnn", 0, 120, 0.24)
    board = changed(fabricate, tmp_path, plan, {("accuracy", "lcnn", 0): table.assign(clean_correct=True)})
    cell = rows_of(board)["lcnn"].cells["clean_accuracy"]
    assert (cell.low, cell.high) == clopper_pearson(120, 120)


def test_tables_that_disagree_about_a_label_are_refused(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan(seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    table = fabricate.table_of("autoattack_l2", "lcnn", 0, 120, 0.24)
    table["label"] += 1
    with pytest.raises(StoreError, match=r"lcnn, seed 0: expected one label per image.*'autoattack_l2'"):
        changed(fabricate, tmp_path, plan, {("autoattack_l2", "lcnn", 0): table})


def test_identical_models_share_the_first_place(tmp_path: Path, fabricate: ModuleType) -> None:
    names = {f"d{i:02d}": 0.3 for i in range(20)}
    plan = fabricate.make_plan(names, seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    same = fabricate.table_of("autoattack_l2", "d00", 0, 120, 0.3)
    board = changed(fabricate, tmp_path, plan, {("autoattack_l2", name, 0): same for name in names})
    assert {(row.rank, row.rank_low, row.rank_high) for row in board.rows} == {(1, 1, 20)}


def test_order_of_chunks_and_of_images_does_not_matter(tmp_path: Path, fabricate: ModuleType, board: Board) -> None:
    plan = fabricate.make_plan()
    shuffled = {
        (key, "lcnn", 1): fabricate.table_of(key, "lcnn", 1, 120, fabricate.DEFENSES["lcnn"]).sample(
            frac=1, random_state=0
        )
        for key in plan["evaluations"]
    }
    other = rows_of(changed(fabricate, tmp_path, plan, shuffled))["lcnn"]
    for name, cell in other.cells.items():
        assert cell == rows_of(board)["lcnn"].cells[name]


def test_adversarial_examples_are_the_nearest_and_the_farthest(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan({"lcnn": 0.24}, seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    rng = np.random.default_rng(0)
    clean = rng.random((30, 1, 8, 8)).astype("float32")
    sizes = rng.permutation(np.linspace(0.1, 0.5, 30))
    delta = np.zeros_like(clean)
    delta[:, 0, 0, 0] = sizes
    images = {"index": np.arange(30), "clean": clean, "adversarial": clean + delta}
    with Store.open(tmp_path, create=True) as store:
        number = store.plans.put(fabricate.record(plan))
        for key in plan["evaluations"]:
            lease = store.leases.claim(key, "evaluation", {})
            assert lease is not None
            table = fabricate.table_of(key, "lcnn", 0, 120, 0.24).drop(
                columns="autoattack_l2_0.5_distance", errors="ignore"
            )
            images_of = images if key == "autoattack_l2" else None
            store.put_chunk(lease, 0, table, images_of, {}, fabricate.facts_of(table))
            store.finish(lease, {})
            store.plans.bind_all([(number, 0, key, key)])
        stored = build(store).adversarial
    found = stored["lcnn", 0]
    order = np.argsort(sizes)
    assert list(found.index) == [*order[:6], *order[-6:]]
    assert found.distance == pytest.approx(sizes[found.index], abs=1e-6)
    assert found.clean.shape == (12, 1, 8, 8)


def test_a_plan_without_any_result_gives_an_empty_board(tmp_path: Path, fabricate: ModuleType) -> None:
    with Store.open(tmp_path, create=True) as store:
        store.plans.put(fabricate.record(fabricate.make_plan()))
        board = build(store)
    assert len(board.rows) == 4
    assert len(board.examples) == 0
    assert list(board.examples.columns) == ["defense", "seed", "index", "label"]
    assert isinstance(board.train_examples, pd.DataFrame)
    assert all(row.missing and row.rank is None for row in board.rows)
