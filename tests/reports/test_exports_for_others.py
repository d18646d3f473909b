"""Results in other people's forms: valid by their schemas, the board's numbers, nothing that may not be quoted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml

from bench.core import files
from bench.core.records import Grade, ThreatModel
from bench.reports.board.build import build
from bench.reports.board.model import Board
from bench.reports.board.row_trust import RowTrust
from bench.reports.exports import every_eval_ever, hub_results, robustbench, writer
from bench.store.store import Store

SCHEMAS = Path(__file__).parent / "schemas"


def schema(name: str) -> dict[str, Any]:
    return json.loads((SCHEMAS / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, fabricate: ModuleType) -> Board:
    """A board on the original CIFAR-10, and its files."""
    out = tmp_path_factory.mktemp("others")
    fabricate.make_store(out, fabricate.make_plan(dataset="cifar10"))
    with Store.open(out) as store:
        board = build(store)
    writer.write_exports(board, out)
    return board


def with_data(board: Board, **changes: object) -> Board:
    plan = board.plan
    return replace(board, plan=plan.model_copy(update={"data": plan.data.model_copy(update=changes)}))


def records(board: Board) -> list[dict[str, Any]]:
    return [json.loads(text) for text in every_eval_ever.texts(board).values()]


def test_hub_results_are_valid_and_say_the_boards_numbers(board: Board) -> None:
    found = hub_results.texts(board)
    assert len(found) == len(board.rows) == 4
    for row in board.rows:
        entries = yaml.safe_load(found[f"eval_results/{files.safe_name(row.defense)}.yaml"])
        jsonschema.validate(entries, schema("eval_results.json"))
        values = {entry["dataset"]["task_id"]: entry["value"] for entry in entries}
        assert set(values) == {"clean_accuracy", "pgd_l2_0.05", "pgd_l2_0.1", "pgd_l2_0.5", "autoattack_l2_0.5"}
        assert values == {column: row.cells[column].value for column in values}
        assert {entry["dataset"]["id"] for entry in entries} == {"uoft-cs/cifar10"}
        assert all("120 test images; 2 training seeds; trust not assessed" in entry["notes"] for entry in entries)


@pytest.mark.parametrize("spoil", ["value", "task_id", "id"])
def test_the_schema_sees_what_the_hub_would_refuse(spoil: str, board: Board) -> None:
    entries = yaml.safe_load(next(iter(hub_results.texts(board).values())))
    (entries[0] if spoil == "value" else entries[0]["dataset"]).pop(spoil)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(entries, schema("eval_results.json"))


def test_data_that_the_hub_does_not_have_give_no_hub_results(board: Board) -> None:
    assert hub_results.texts(with_data(board, name="cifar10-jpeg", original=False)) == {}
    assert hub_results.texts(with_data(board, original=False)) == {}
    assert hub_results.texts(with_data(board, name="digits")) == {}


def test_a_row_that_may_not_be_quoted_gives_no_hub_results(board: Board) -> None:
    invalid = replace(board.rows[0], assessment=RowTrust(Grade.INVALID))
    short = replace(board.rows[1], incomplete="1 of 2 seeds")
    bound = replace(board.rows[2], assessment=RowTrust(Grade.C))
    found = hub_results.texts(replace(board, rows=(invalid, short, bound, board.rows[3])))
    assert len(found) == 2
    (text,) = (t for t in found.values() if "trust C" in t)
    notes = {e["dataset"]["task_id"]: e["notes"] for e in yaml.safe_load(text)}
    assert "upper bound" in notes["autoattack_l2_0.5"]
    assert "upper bound" not in notes["clean_accuracy"]


def test_hub_results_hold_any_number_and_any_name(board: Board) -> None:
    tiny = {name: replace(cell, value=1e-7) for name, cell in board.rows[0].cells.items()}
    row = replace(board.rows[0], cells=tiny, defense="a: b\n- c#'\"")
    (text,) = hub_results.texts(replace(board, rows=(row,))).values()
    entries = yaml.safe_load(text)
    jsonschema.validate(entries, schema("eval_results.json"))
    assert {entry["value"] for entry in entries} == {1e-7}


def test_aggregate_records_are_valid_and_say_the_boards_numbers(board: Board) -> None:
    found = every_eval_ever.texts(board)
    assert len(found) == 4
    for (path, text), row in zip(found.items(), board.rows, strict=True):
        record = json.loads(text)
        jsonschema.validate(record, schema("every_eval_ever-0.3.0.json"))
        _, _, suite, developer, model, file = path.split("/")
        assert (suite, f"{developer}/{model}") == ("cifar10", record["model_info"]["id"])
        assert file.endswith(".json")
        results = {r["evaluation_name"]: r for r in record["evaluation_results"]}
        for name, result in results.items():
            cell, details = row.cells[name], result["score_details"]
            assert details["score"] == cell.value
            assert details["uncertainty"]["num_samples"] == cell.n
            assert details["details"] == {f"training seed {s}": repr(v) for s, v in cell.by_seed.items()}
            assert result["source_data"]["hf_repo"] == "uoft-cs/cifar10"
        assert not results["autoattack_l2_0.5"]["metric_config"]["lower_is_better"]
        assert results["curvature"]["metric_config"]["lower_is_better"]
        interval = results["autoattack_l2_0.5"]["score_details"]["uncertainty"]["confidence_interval"]
        assert (interval["lower"], interval["upper"]) == tuple(
            getattr(row.cells["autoattack_l2_0.5"], end) for end in ("low", "high")
        )


@pytest.mark.parametrize("spoil", ["model_info", "schema_version", "evaluation_results", "eval_library"])
def test_the_schema_of_aggregate_records_sees_a_lack(spoil: str, board: Board) -> None:
    record = records(board)[0]
    del record[spoil]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, schema("every_eval_ever-0.3.0.json"))


def test_aggregate_records_of_own_data_doubtful_rows_and_odd_names_are_valid_too(board: Board) -> None:
    row = replace(board.rows[0], defense="../../evil", assessment=RowTrust(Grade.INVALID, violated=1))
    own = with_data(replace(board, rows=(row,)), name="my folder", original=False)
    ((path, text),) = every_eval_ever.texts(own).items()
    assert ".." not in path
    record = json.loads(text)
    jsonschema.validate(record, schema("every_eval_ever-0.3.0.json"))
    assert record["model_info"]["additional_details"]["trust"] == "INVALID"
    assert record["evaluation_results"][0]["source_data"]["source_type"] == "other"


def test_model_info_of_linf_lies_in_its_folder_with_its_budget(board: Board) -> None:
    threat = ThreatModel("linf", 8 / 255)
    suite = board.plan.suite.model_copy(update={"threat": threat})
    name = "autoattack_l2_0.5"
    columns = tuple(
        replace(c, facts=replace(c.facts, params=c.facts.params | {"norm": "linf", "eps": 8 / 255}))
        if c.name == name
        else c
        for c in board.columns
    )
    found = robustbench.texts(replace(board, plan=board.plan.model_copy(update={"suite": suite}), columns=columns))
    assert len(found) == 4
    for (path, text), row in zip(found.items(), board.rows, strict=True):
        assert path.startswith("model_info/cifar10/Linf/")
        info = json.loads(text)
        assert (info["eps"], info["autoattack_acc"]) == ("8/255", f"{100 * (row.cells[name].value or 0):.2f}")
