"""The grade of trust on the board: its worst seed's, in words; who is ranked with it; a repeat moves nothing."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bench.core.records import Column, Grade
from bench.reports.board.build import build
from bench.reports.board.compare import compare
from bench.reports.board.model import Board
from bench.reports.board.row_trust import row_trust
from bench.reports.board.run_tables import RunTables, Shared, load
from bench.reports.board.stages import cascade
from bench.reports.board.trust import assess_runs
from bench.reports.exports import csv as csv_export
from bench.reports.exports import json as json_export
from bench.reports.exports.latex import latex_text
from bench.reports.exports.markdown import markdown_text
from bench.reports.exports.terminal import board_table
from bench.reports.html import page
from bench.reports.html.answers import BELIEVE, summary
from bench.reports.html.trust_section import trust_section
from bench.store.plan_record import PlanRecord
from bench.store.store import Store
from bench.trust.assess import assess
from bench.trust.evidence import Evidence, Measured
from bench.trust.records import Check, CheckResult, Finding, TrustReport
from tests.reports import trust_checks

GRADES = {("cure", 1): "C", ("lcnn", 0): "INVALID", ("gradreg", 0): "B soft", ("gradreg", 1): "B"}


@pytest.fixture(scope="module")
def graded(make_board: Callable[..., Board]) -> Board:
    """Return a board on which cure is an upper bound only and lcnn invalid, each by one of its two seeds."""
    return make_board(n=120, grades=GRADES)


def row(board: Board, name: str):
    return next(r for r in board.rows if r.defense == name)


def answer(board: Board) -> tuple[str, str]:
    found = next(a for a in summary(board) if a.question == BELIEVE)
    return f"{found.short} {found.line}", " ".join(found.more)


def report(grade: Grade, *verdicts: str) -> TrustReport:
    """Return a report with a grade, whatever its results say."""
    results = [
        CheckResult(Check(f"G{i}", "", "adequacy", "", lambda e: Finding("pass", "")), Finding(verdict, f"words {i}"))
        for i, verdict in enumerate(verdicts, 1)
    ]
    return TrustReport(grade, tuple(results), adaptive=False)


def test_reasons_that_all_rows_share_are_said_once(graded: Board) -> None:
    section = trust_section(graded, None, None)
    below = [row for row in graded.rows if row.assessment.grade not in (None, Grade.A)]
    assert section.shared
    assert section.seeds == 2
    for line, of in zip(section.grades, graded.rows, strict=True):
        said = [str(cell.value) for cell in line]
        assert said[0] == of.title
        others = [reason for reason in of.assessment.short_of_a if of not in below or reason not in section.shared]
        assert said[3] == ("; ".join(others) or ("nothing else" if of in below else "every check passed"))
    assert f"Of every row without an A: {section.shared}." in page.render(graded)


def test_a_single_row_has_its_reason_beside_it_and_one_seed_one_grade(
    make_board: Callable[..., Board],
) -> None:
    board = make_board(n=60, seeds=1, names={"standard": (0.30, 9.0, 41.0, 1.0)})
    section = trust_section(board, None, None)
    assert (section.shared, section.seeds) == ("", 1)
    assert [len(line) for line in section.grades] == [3]
    assert section.grades[0][2].value


def test_a_row_has_the_grade_of_its_worst_seed_which_is_named(graded: Board) -> None:
    cure, lcnn, gradreg = (row(graded, name) for name in ("cure", "lcnn", "gradreg"))
    assert (cure.trust, cure.assessment.seed, cure.trust_failed) == (Grade.C, 1, ("G3", "G2"))
    assert (lcnn.trust, lcnn.assessment.seed, lcnn.trust_failed) == (Grade.INVALID, 0, ("V3",))
    assert (gradreg.trust, gradreg.trust_failed) == (Grade.B, ("G2",))
    assert cure.assessment.who == "seed 1"
    assert cure.assessment.reasons == ("G3: a small step changes the function by 0.4 more than it says",)


def test_upper_bounds_stand_below_the_ranked_rows_and_invalid_ones_are_named_with_the_reason(graded: Board) -> None:
    names = [r.defense for r in graded.rows]
    assert names[-2:] == ["cure", "lcnn"]
    assert [r.rank is None for r in graded.rows] == [*[False] * 6, True, True]
    assert {name for pair in graded.pairs for name in (pair.a, pair.b)} == set(names[:-2])
    assert row(graded, "cure").unranked == (
        "an upper bound only: G3: a small step changes the function by 0.4 more than it says (seed 1)"
    )
    assert row(graded, "lcnn").unranked == ("invalid: V3: five calls differ by 0.5 of the logits at most (seed 0)")
    assert max(r.rank_high for r in graded.rows[:-2]) == 6, "an upper bound holds no place"


def test_the_grade_moves_no_number_but_the_places(graded: Board, make_board: Callable[..., Board]) -> None:
    plain = make_board(n=120)
    for r in plain.rows:
        assert row(graded, r.defense).cells == r.cells
    assert [r.defense for r in plain.rows if r.defense not in ("cure", "lcnn")] == [
        r.defense for r in graded.rows[:-2]
    ], "the others keep their order"


def test_a_board_without_trust_is_built_and_ranked_as_before(make_board: Callable[..., Board]) -> None:
    board = make_board(n=60, seeds=1, trust=False)
    assert {r.trust for r in board.rows} == {None}
    assert all(r.rank is not None for r in board.rows)
    assert "trust" not in [c.name for c in board.columns]
    assert answer(board)[0].startswith("With care: trust was not assessed; ")
    html = page.render(board)
    assert "Trust was not assessed on this board" in html
    assert 'class="divider"' not in html


def test_a_row_without_trust_among_rows_that_have_it_is_incomplete(tmp_path: Path, fabricate: ModuleType) -> None:
    plan = fabricate.make_plan(seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
    plan["evaluations"]["trust"] = fabricate.evaluation("trust", trust_checks.COLUMNS)
    with Store.open(tmp_path, create=True) as store, trust_checks.in_place():
        number = store.plans.put(fabricate.record(plan))
        for place, entry in enumerate(plan["rows"]):
            name = entry["defense"]
            for key in plan["evaluations"]:
                if (name, key) == ("gradreg", "trust"):
                    continue
                cell = fabricate.name_of(key, name)
                values = fabricate.table_of(key, name, 0, 120, fabricate.DEFENSES[name])
                if key == "trust":
                    values = pd.concat([values, trust_checks.table(120, "B")], axis=1)
                fabricate.write_cell(store, cell, "evaluation", {}, [values], trust_checks.COLUMNS)
                store.plans.bind_all([(number, place, key, cell)])
        board = build(store)
    gradreg = row(board, "gradreg")
    assert (gradreg.trust, gradreg.rank) == (None, None)
    assert gradreg.unranked == "incomplete: 0 of 1 seed (trust missing)"
    assert {r.trust for r in board.rows if r is not gradreg} == {Grade.B}
    assert gradreg.own(next(c for c in board.columns if c.name == "trust")) == ""


@pytest.mark.parametrize(
    ("grades", "expected", "seed"),
    [
        ({0: Grade.B, 1: Grade.A}, Grade.B, 0),
        ({0: Grade.B}, None, None),  # seed 1 was not assessed, and may be the worst
        ({0: Grade.C}, Grade.C, 0),
        ({1: Grade.INVALID}, Grade.INVALID, 1),
        ({}, None, None),
    ],
)
def test_a_seed_that_was_not_assessed_is_no_pass(grades, expected, seed) -> None:
    found = row_trust({s: report(g) for s, g in grades.items()}, (0, 1))
    assert (found.grade, found.seed) == (expected, seed)


def test_a_violated_bound_makes_the_row_invalid_whatever_the_checks_say() -> None:
    found = row_trust({0: report(Grade.A)}, (0,), violated=3)
    assert (found.grade, found.failed, found.reasons) == (Grade.INVALID, ("bounds",), ("3 proved bounds violated",))


def test_missing_checks_are_a_reason_where_they_alone_cap_the_grade() -> None:
    few, many = report(Grade.B, *["not assessable"] * 2), report(Grade.C, *["not assessable"] * 3)
    assert row_trust({0: few}, (0,)).reasons == ()
    assert row_trust({0: many}, (0,)).reasons == ("3 checks could not be made: G1, G2 and G3",)


def test_what_parts_a_row_from_the_best_grade_is_said() -> None:
    found = {
        "could not be made: G2; no attack made for this very defense was declared": report(
            Grade.B, "pass", "not assessable"
        ),
        "G1: words 1; no attack made for this very defense was declared": report(Grade.C, "fail"),
        "": replace(report(Grade.A, "pass"), adaptive=True),
    }
    for words, one in found.items():
        assert "; ".join(row_trust({0: one}, (0,)).short_of_a) == words


def test_every_export_has_the_grade(graded: Board) -> None:
    lines = {line["defense"]: line for line in csv.DictReader(io.StringIO(csv_export.csv_text(graded)))}
    assert (lines["cure"]["trust"], lines["cure"]["trust_failed"], lines["cure"]["rank"]) == ("C", "G3;G2", "")
    assert (lines["lcnn"]["trust"], lines["lcnn"]["trust_failed"]) == ("INVALID", "V3")
    assert (lines["standard"]["trust"], lines["standard"]["trust_failed"]) == ("B", "")
    found = {r["defense"]: r for r in json.loads(json_export.json_text(graded))["rows"]}["cure"]["trust_report"]
    assert (found["grade"], found["worst_seed"]) == ("C", 1)
    check = found["by_seed"]["1"]["checks"]["G3"]
    assert (check["verdict"], check["value"], len(check["images"])) == ("fail", 0.4, 120)
    assert found["by_seed"]["0"]["checks"]["T1"]["verdict"] == "not assessable"
    markdown = next(line for line in markdown_text(graded).splitlines() if "| cure |" in line)
    assert markdown.endswith("| C |")
    assert "cure: an upper bound only: G3" in markdown_text(graded)
    body = latex_text(graded).split(r"\midrule")
    assert re.search(r"-- & cure .*& C ", body[2])
    assert "Trust" in body[0]


def test_the_terminal_shows_grades_and_puts_upper_bounds_apart(graded: Board) -> None:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(board_table(graded))
    text = console.export_text()
    cure = next(line for line in text.splitlines() if "cure" in line)
    assert "≤" in cure.split("cure")[0]
    assert re.search(r"\bC\b", cure)
    assert "cure: an upper bound only: G3: a small step" in text
    assert "lcnn: invalid: V3" in text


def test_a_value_that_is_no_number_leaves_the_json_sound(make_board: Callable[..., Board]) -> None:
    board = make_board(n=60, seeds=1)
    entry = Check("V3", "", "validity", "", lambda e: Finding("pass", ""))
    bad = TrustReport(Grade.INVALID, (CheckResult(entry, Finding("fail", "changes", float("inf"), 1e-4)),), False)
    rows = (replace(board.rows[0], assessment=row_trust({0: bad}, (0,))), *board.rows[1:])
    found = json.loads(json_export.json_text(replace(board, rows=rows)))["rows"][0]["trust_report"]
    assert found["by_seed"]["0"]["checks"]["V3"]["value"] is None


def test_compare_says_what_its_sides_are_worth(tmp_path: Path, make_board: Callable[..., Board]) -> None:
    make_board(tmp_path, n=120, grades=GRADES)
    with trust_checks.in_place():
        notes = compare(tmp_path, "cure", "lcnn").notes
    assert notes == (
        "cure is an upper bound only: G3: a small step changes the function by 0.4 more than it says (seed 1)",
        "lcnn is invalid: V3: five calls differ by 0.5 of the logits at most (seed 0)",
    )


def test_the_page_answers_its_third_question_from_the_grade(graded: Board) -> None:
    short, text = answer(graded)
    assert short.startswith("Trust B: no check that matters failed; ")
    assert "An upper bound only, below the ranking: cure." in text
    assert "Invalid: lcnn." in text
    assert "Not ranked" not in text, "each is named once"


def test_the_page_puts_upper_bounds_below_the_ranking_in_the_same_table(graded: Board) -> None:
    html = page.render(graded)
    table = html[html.index('<table id="ranking"') : html.index("</table>", html.index('<table id="ranking"'))]
    ranked, bounds = table.split('<tr class="divider">')
    assert 'id="row-cure"' in bounds
    assert 'id="row-cure"' not in ranked
    assert 'data-trust="C"' in bounds
    shown = re.findall(r'<span class="value">([^<]*)</span>', bounds)
    assert sum(text.startswith("≤") for text in shown) == sum(
        c.facts.role in ("robust", "best_known", "transfer") for c in graded.columns
    )
    assert 'id="row-lcnn"' not in table
    section = html[html.index('id="trust"') : html.index("</section>", html.index('id="trust"'))]
    assert "five calls differ by 0.5 of the logits at most" in section
    assert "0: B, 1: C" in section


def test_figures_and_their_legends_leave_out_what_is_not_ranked(graded: Board) -> None:
    html = page.render(graded)
    figures = html[html.index('<section id="figures"') :]
    figures = figures[: figures.index("</section>")]
    assert "Not drawn, as they are not ranked: cure and lcnn." in figures
    assert 'data-series="gradreg"' in figures
    assert 'data-series="cure"' not in figures


def test_if_nothing_can_be_believed_nothing_is_ranked(make_board: Callable[..., Board]) -> None:
    names = {"standard": (0.30, 9.0, 41.0, 1.0), "lcnn": (0.34, 9.5, 3.6, 1.09)}
    board = make_board(names=names, n=60, seeds=1, grades={("standard", 0): "C", ("lcnn", 0): "C"})
    assert [r.rank for r in board.rows] == [None, None]
    assert [r.value(board.ranking_column) for r in board.rows] == sorted(
        (r.value(board.ranking_column) for r in board.rows), reverse=True
    )
    html = page.render(board)
    assert "Nothing is ranked. No complete row can be believed enough" in html
    assert "Upper bounds only, drawn as nothing is ranked: " in html
    assert html.count('<tr class="divider">') == 1


def test_the_boards_report_is_that_of_the_real_checks(tmp_path: Path, make_board: Callable[..., Board]) -> None:
    make_board(tmp_path, n=120, seeds=1, grades={("cure", 0): "C"})
    with Store.open(tmp_path) as store:
        board = build(store)
    own = board.examples[board.examples["defense"] == "cure"]
    measured = tuple(
        Measured(own["index"].to_numpy(), own[name].to_numpy(), facts)
        for name, facts in board.facts.items()
        if name in own and own[name].dtype.kind in "bif"
    )
    alone = assess(Evidence(board.threat, measured))
    found = row(board, "cure").assessment.reports[0]
    assert [r.name for r in found.results] == [r.name for r in alone.results]
    mine = {r.name: r.finding for r in found.results}
    assert mine["G3"].verdict == "fail"
    assert mine["G3"] == {r.name: r.finding for r in alone.results}["G3"]


@pytest.fixture
def runs(tmp_path: Path, make_board: Callable[..., Board]) -> tuple[PlanRecord, list[RunTables]]:
    """Return the plan and the runs of three defenses with two seeds, as loaded from their store."""
    names = {"standard": (0.30, 9.0, 41.0, 1.0), "lcnn": (0.34, 9.5, 3.6, 1.0), "cure": (0.4, 3.0, 30.0, 1.0)}
    make_board(tmp_path, names=names, n=60)
    with Store.open(tmp_path) as store:
        plan = store.plans.latest()
        return plan, [load(store, plan, entry, Shared()) for entry in plan.rows]


def evidence_seen(plan: PlanRecord, runs: list[RunTables]) -> dict[tuple[str, int], Evidence]:
    """Return what the checks are given of each model."""
    seen: list[Evidence] = []
    looking = Check("G1", "", "adequacy", "", lambda e: seen.append(e) or Finding("pass", ""))
    with patch("bench.trust.assess.checks", lambda: (looking,)):
        found = assess_runs(plan, runs)
    return dict(zip(found, seen, strict=True))


def test_every_model_has_the_undefended_one_of_its_seed_as_twin(runs: tuple[PlanRecord, list[RunTables]]) -> None:
    found = evidence_seen(*runs)
    for (name, seed), evidence in found.items():
        assert evidence.twin is not None
        own = next(c for c in evidence.twin.columns if c.facts.role == "clean").values
        assert np.array_equal(own, next(c for c in found["standard", seed].columns if c.facts.role == "clean").values)
        assert name != "standard" or evidence.twin.twin is None
    plan, tables = runs
    alone = evidence_seen(plan, [run for run in tables if run.defense != "standard"])
    assert {evidence.twin for evidence in alone.values()} == {None}


def test_the_cells_key_says_what_was_tried(runs: tuple[PlanRecord, list[RunTables]]) -> None:
    """A declared attack, the other rows whose examples were tried, the data that trust was measured on."""
    plan, tables = runs
    spec = {
        "autoattack_l2": {"adaptive": {"eot": 1}},
        "accuracy": {"inputs": {"others adversarial": {f"row{i // 2} seed {i % 2}": "cell" for i in range(6)}}},
        "trust": {"data": "d" * 64},
    }
    run = next(r for r in tables if r.defense == "cure")
    records = {k: replace(r, spec=spec[k]) if k in spec and r else r for k, r in run.records.items()}
    found = evidence_seen(plan, [replace(run, records=records), *(r for r in tables if r is not run)])
    mine, other = found["cure", run.seed], found["lcnn", 0]
    assert (mine.adaptive, mine.others, mine.facts["data"]) == (True, 3, "d" * 64)
    assert (other.adaptive, other.others, other.facts["data"]) == (False, 0, None)
    assert re.fullmatch("[0-9a-f]{64}", mine.facts["weights"])


# A repeat of the same attacks


def repeat_columns() -> dict[str, Column]:
    found = {}
    for kind, random in (("apgd-ce", 1.0), ("square", 1.0), ("fab-t", 0.0)):
        stem = f"repeat_l2_{{eps}}_{kind.replace('-', '_')}"
        params = {"norm": "l2", "kind": kind, "random": random}
        found[f"{stem}_{{run}}"] = Column("Broken.", role="repeat", params=params)
        if random:
            found[f"{stem}_seed_used"] = Column("Moved.", role="repeat_seed_used", params=params)
    return found


def repeated(n: int) -> pd.DataFrame:
    """Return three runs of two kinds and one of a third: image 3 fell once, 4 to Square twice, 5 to all, 0 is wrong."""
    runs = {f"apgd_ce_{r}": np.zeros(n) for r in range(3)} | {f"square_{r}": np.zeros(n) for r in range(3)}
    runs["fab_t_0"] = np.zeros(n)
    runs["apgd_ce_0"][3] = 1
    runs["square_0"][4] = runs["square_1"][4] = 1
    runs["square_2"][4] = np.nan
    for name in ("apgd_ce_0", "square_0", "fab_t_0"):
        runs[name][5] = 1
    runs |= {"apgd_ce_seed_used": np.ones(n), "square_seed_used": np.ones(n)}
    for values in runs.values():
        values[0] = np.nan
    return pd.DataFrame({f"repeat_l2_0.5_{name}": values for name, values in runs.items()})


@pytest.fixture
def with_repeat(tmp_path: Path, fabricate: ModuleType) -> Callable[..., Board]:
    """Return what builds a board on whose lcnn the attacks were repeated."""

    def make(grade: str | None = "B", n: int = 120, repeat: bool = True, lacks: str = "", **changed: float) -> Board:
        plan = fabricate.make_plan(seeds=(0,), evaluations=("accuracy", "autoattack_l2"))
        facts = repeat_columns()
        if grade:
            plan["evaluations"]["trust"] = fabricate.evaluation("trust", trust_checks.COLUMNS)
        if repeat:
            plan["evaluations"]["repeat_l2"] = fabricate.evaluation("repeat_l2", facts, eps=[0.5])
        folder = tmp_path / f"{grade}{n}{repeat}{lacks}{len(changed)}"
        with Store.open(folder, create=True) as store, trust_checks.in_place():
            number = store.plans.put(fabricate.record(plan))
            for place, entry in enumerate(plan["rows"]):
                for key in plan["evaluations"]:
                    if (key, entry["defense"]) == ("repeat_l2", lacks):
                        continue
                    cell = fabricate.name_of(key, entry["defense"])
                    values = fabricate.table_of(key, entry["defense"], 0, n, fabricate.DEFENSES[entry["defense"]])
                    if key == "trust":
                        values = pd.concat([values, trust_checks.table(n, grade)], axis=1)
                    if key == "repeat_l2":
                        values = pd.concat([values, repeated(n).assign(**changed)], axis=1)
                    declared = trust_checks.COLUMNS | facts
                    fabricate.write_cell(store, cell, "evaluation", {}, [values], declared, eps=[0.5])
                    store.plans.bind_all([(number, place, key, cell)])
            return build(store)

    return make


def test_the_bound_and_the_only_by_table_are_read_from_the_runs(with_repeat: Callable[..., Board]) -> None:
    found = row(with_repeat(), "lcnn").repeats[0]
    assert [(k.kind, k.runs, k.broken, k.alone) for k in found.kinds] == [
        ("apgd-ce", 3, 2, 1), ("square", 3, 2, 1), ("fab-t", 1, 1, 0),
    ]  # fmt: skip
    assert (found.bound.images, found.bound.seen_once) == (119, {"apgd-ce": 1, "square": 0})
    assert found.bound.expected == pytest.approx(1 / 3)
    assert found.sentence.startswith("On these 119 images another run of each of the same attacks with new seeds")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"grade": "C"}, "check G3 failed"),
        ({"grade": None}, "the model was not checked for masked gradients"),
        ({"n": 100}, "99 images, at least 100 needed"),
        ({"repeat_l2_0.5_square_seed_used": 0.0}, "square: two seeds gave identical points"),
    ],
)
def test_it_is_not_assessable_where_it_would_be_hollow(with_repeat: Callable[..., Board], options, reason) -> None:
    found = row(with_repeat(**options), "lcnn").repeats[0]
    assert reason in found.bound.obstacles
    assert found.bound.upper is None
    assert found.kinds, "what each alone broke is a fact all the same"


def test_a_repeat_moves_no_number_place_or_grade(with_repeat: Callable[..., Board]) -> None:
    with_it, without = with_repeat(), with_repeat(repeat=False)
    for a, b in zip(with_it.rows, without.rows, strict=True):
        assert (a.defense, a.rank, a.rank_low, a.rank_high, a.trust) == (
            b.defense,
            b.rank,
            b.rank_low,
            b.rank_high,
            b.trust,
        )
        assert a.cells == b.cells
    assert [c.name for c in with_it.columns] == [c.name for c in without.columns]
    partly = row(with_repeat(lacks="gradreg"), "gradreg")
    assert (partly.rank, partly.incomplete, partly.repeats) == (row(without, "gradreg").rank, "", {})


def test_page_and_json_have_the_sentence(with_repeat: Callable[..., Board]) -> None:
    board = with_repeat()
    html, found = page.render(board), row(board, "lcnn").repeats[0]
    assert f"Seed 0: {found.sentence}" in html
    assert "What each attack alone broke" in html
    stored = {r["defense"]: r for r in json.loads(json_export.json_text(board))["rows"]}["lcnn"]["repeat"]["0"]
    assert stored["sentence"] == found.sentence
    assert stored["only_by"][1] == {"kind": "square", "runs": 3, "broken": 2, "alone": 1}
    assert stored["expected"] == found.bound.expected


# Stages of one attack


def test_of_the_last_stage_alone_is_a_fact() -> None:
    broken_by = ["", "clean", *["apgd-ce"] * 5, "apgd-t", "apgd-t", *["square"] * 3]
    found = {s.name: (s.broken, s.alone, s.missed) for s in cascade("autoattack", Counter(broken_by))}
    assert found == {"apgd-ce": (5, None, 10), "apgd-t": (2, None, 5), "fab-t": (0, None, 3), "square": (3, 3, 3)}


def test_stages_of_an_unknown_attack_or_name_have_no_order() -> None:
    assert cascade("pgd", {"pgd_l2": 1}) == ()
    assert cascade("autoattack", {"apgd-ce": 1, "audit:square": 1}) == ()
