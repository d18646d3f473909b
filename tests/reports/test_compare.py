"""Comparing two defenses and two folders: differences, verdicts, discordant images, regressions."""

from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console

from bench.core.errors import MachineError, UsageError
from bench.core.stats.paired import mcnemar
from bench.reports.board.compare import Comparison, ComparisonReport, compare
from bench.reports.exports.terminal import comparison_table
from bench.store.store import Store


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, fabricate: ModuleType) -> tuple[Path, Path]:
    """An old folder and a new one whose defenses break 20 % earlier; seed 0 only."""
    paths = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("new")
    for path, factor in zip(paths, (1.0, 0.8), strict=True):
        distances = {name: factor * d for name, d in fabricate.DEFENSES.items()}
        fabricate.make_store(path, fabricate.make_plan(seeds=(0,)), n=300, distances=distances)
    return paths


def by_column(report: ComparisonReport) -> dict[str, Comparison]:
    return {c.column: c for c in report.comparisons}


def text_of(report: ComparisonReport) -> str:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(comparison_table(report))
    return console.export_text()


def test_two_defenses(folders: tuple[Path, Path], fabricate: ModuleType) -> None:
    report = compare(folders[0], "standard", "gradreg")
    c = by_column(report)["autoattack_l2_0.5"]
    old, new = (
        fabricate.table_of("autoattack_l2", name, 0, 300, fabricate.DEFENSES[name])[
            "autoattack_l2_0.5_robust"
        ].to_numpy()
        for name in ("standard", "gradreg")
    )
    assert (c.a_value, c.b_value) == (old.mean(), new.mean())
    assert c.difference == pytest.approx(new.mean() - old.mean())
    assert c.p == pytest.approx(mcnemar(int((new & ~old).sum()), int((old & ~new).sum())), abs=1e-12)
    assert c.low < c.difference < c.high
    assert (c.verdict, c.n, c.gates) == ("better", 300, True)
    assert {d.index for d in c.discordant} == set(np.flatnonzero(old != new))
    assert [d.b < d.a for d in c.discordant] == sorted((d.b < d.a for d in c.discordant), reverse=True)
    assert all(d.label == d.index % 10 for d in c.discordant)
    assert report.regressions == ()
    assert "bound_violations" not in by_column(report)


def test_the_other_way_round_is_a_regression(folders: tuple[Path, Path]) -> None:
    there, back = compare(folders[0], "standard", "gradreg"), compare(folders[0], "gradreg", "standard")
    for name, c in by_column(there).items():
        assert by_column(back)[name].difference == pytest.approx(-c.difference)
        assert by_column(back)[name].p == pytest.approx(c.p)
    assert "autoattack_l2_0.5" in [c.column for c in back.regressions]
    assert all(c.verdict == "worse" for c in back.regressions)


def test_two_folders(folders: tuple[Path, Path]) -> None:
    report = compare("unused", str(folders[0]), str(folders[1]))
    assert {c.defense for c in report.comparisons} == {"standard", "lcnn", "gradreg", "lcnn:lambda_beta=0.01"}
    assert {(c.defense, c.column) for c in report.regressions} >= {("gradreg", "pgd_l2_0.5")}
    assert all(c.verdict == "no difference shown" for c in report.comparisons if c.column == "clean_accuracy")
    text = text_of(report)
    assert "worse (regression)" in text
    assert "gradreg pgd_l2_0.5: b loses" in text


def test_a_folder_against_itself_shows_no_difference(folders: tuple[Path, Path]) -> None:
    report = compare("unused", str(folders[0]), str(folders[0]))
    assert {c.verdict for c in report.comparisons} == {"no difference shown"}
    assert report.regressions == ()
    assert all(c.difference == 0 and c.p == 1 for c in report.comparisons)


def test_intervals_agree_with_adjusted_p(folders: tuple[Path, Path]) -> None:
    """The interval is adjusted by the same step as p: it leaves out 0 where, and only where, a verdict is given."""
    report = compare("unused", str(folders[0]), str(folders[1]))
    assert {c.verdict for c in report.comparisons} >= {"worse", "no difference shown"}
    for c in report.comparisons:
        assert (c.low > 0 or c.high < 0) == (c.p_holm < 0.05) == (c.verdict != "no difference shown")
    assert any(c.p < 0.05 <= c.p_holm for c in report.comparisons)


def test_an_incomplete_row_is_compared_and_said(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan({"standard": 0.2, "lcnn": 0.2}, evaluations=("accuracy", "pgd_l2"))
    fabricate.make_store(tmp_path, plan)
    with Store.open(tmp_path) as store:
        number = store.plans.put(fabricate.record(plan))
        for place, row in enumerate(plan["rows"]):
            for key in plan["evaluations"]:
                if (row["defense"], row["seed"]) != ("lcnn", 1):
                    store.plans.bind_all([(number, place, key, fabricate.name_of(key, row["defense"], row["seed"]))])
    report = compare(tmp_path, "standard", "lcnn")
    assert report.notes == ("lcnn is incomplete: 1 of 2 seeds",)
    assert "lcnn is incomplete: 1 of 2 seeds" in text_of(report)


def test_a_column_that_only_one_defense_has(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan({"standard": 0.2, "lcnn": 0.2}, seeds=(0,), evaluations=("accuracy", "pgd_l2"))
    fabricate.make_store(tmp_path, plan, distances={"standard": 0.2, "lcnn": 0.2})
    with Store.open(tmp_path) as store:
        number = store.plans.put(fabricate.record(plan))
        for place, row in enumerate(plan["rows"]):
            for key in plan["evaluations"]:
                if (row["defense"], key) != ("lcnn", "pgd_l2"):
                    store.plans.bind_all([(number, place, key, fabricate.name_of(key, row["defense"], row["seed"]))])
    for pair in (("standard", "lcnn"), ("lcnn", "standard")):
        report = compare(tmp_path, *pair)
        assert set(by_column(report)) == {"clean_accuracy"}
        assert f"pgd_l2_0.5: no image measured for both {' and '.join(pair)}" in report.skipped


def test_numbers_inform_and_do_not_gate(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan({"standard": 0.2, "lcnn": 0.2}, seeds=(0,), evaluations=("accuracy", "curvature"))
    fabricate.make_store(tmp_path, plan, distances={"standard": 0.2, "lcnn": 0.2})
    report = compare(tmp_path, "standard", "lcnn")
    c = by_column(report)["curvature"]
    assert not c.gates
    assert c.discordant == ()
    assert c.n < 120  # images on which either is missing are left out


def test_spellings_are_found_in_any_form(folders: tuple[Path, Path]) -> None:
    assert compare(folders[0], "lcnn", "lcnn:lambda_beta=1e-2").comparisons[0].b == "lcnn:lambda_beta=0.01"


def test_other_settings_are_not_compared(tmp_path: Path, folders: tuple[Path, Path], fabricate: ModuleType) -> None:
    plan = fabricate.make_plan(seeds=(0,))
    plan["evaluations"]["pgd_l2"]["arguments"] = {"steps": 10}
    fabricate.make_store(tmp_path, plan, n=300)
    report = compare("unused", str(folders[0]), str(tmp_path))
    assert not any(c.column.startswith("pgd") for c in report.comparisons)
    assert any("gradreg pgd_l2_0.5: not measured with the same settings" in reason for reason in report.skipped)
    assert "not compared" in text_of(report)


def test_bad_requests(tmp_path: Path, folders: tuple[Path, Path], fabricate: ModuleType) -> None:
    with pytest.raises(UsageError, match=r"expected a defense of .*got 'gradregg'. Did you mean 'gradreg'"):
        compare(folders[0], "standard", "gradregg")
    with pytest.raises(UsageError, match="expected two defenses, got 'lcnn' twice"):
        compare(folders[0], "lcnn", "lcnn")
    with pytest.raises(UsageError, match="expected two defenses or two result folders"):
        compare(folders[0], "lcnn", str(folders[1]))
    with pytest.raises(MachineError, match="expected a result folder"):
        compare(tmp_path / "nowhere", "lcnn", "standard")
    plan = fabricate.make_plan(seeds=(0,))
    plan["data"]["test"]["fingerprint"] = "d" * 64
    fabricate.make_store(tmp_path, plan, n=300)
    with pytest.raises(UsageError, match="expected the same test images"):
        compare("unused", str(folders[0]), str(tmp_path))
