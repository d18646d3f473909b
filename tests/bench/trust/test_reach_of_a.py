"""Grade A is in reach: a declared attack is all that parts a row of a shipped suite from it, and a board has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.config.suite import Suite
from bench.config.suite_file import load_suite, suites
from bench.core import registry
from bench.core.records import REFERENCE_RANK, Grade, expand_columns
from bench.reports.board.build import build
from bench.running import pipeline
from bench.running.prepare import Options
from bench.store.store import Store
from bench.trust.checks.other_attacks import ROWS
from bench.trust.verdicts import MIN_IMAGES

ATTACKED = [name for entry in suites() if (name := str(entry["name"])) != "two-moons"]  # no attack on points
DECLARED = {"smoothing"}
EVALUATIONS = """
[evaluations.accuracy]
limit = 24

[evaluations.autoattack_l2]
eps = [0.5]
limit = 24

[evaluations.trust]
eps = [0.5]
limit = 24
"""


def roles(suite: Suite) -> set[str]:
    """Return what the columns of a suite at its threat are for, and those of the model as a whole."""
    found = set()
    for entry in suite.evaluations:
        for column in expand_columns(registry.evaluations.get(entry.evaluation).columns, entry.arguments).values():
            if column.params.get("eps", suite.primary_eps) == suite.primary_eps:
                found.add(column.role)
    return found


@pytest.mark.parametrize("name", ATTACKED)
def test_a_shipped_suite_measures_what_every_check_reads(name: str) -> None:
    suite = load_suite(name)
    by_key = {entry.key: entry for entry in suite.evaluations}
    assert {"clean", "margin", "robust", "broken_by", "refused", "distance", "trust"} <= roles(suite)
    attack = by_key[f"autoattack_{suite.threat.norm}"]
    trust = by_key["trust" if suite.threat.norm == "l2" else f"trust_{suite.threat.norm}"]
    ranks = registry.evaluations.get(attack.evaluation).columns
    assert max(column.ranks for column in ranks.values()) >= REFERENCE_RANK, "the attack that a declared one goes with"
    assert trust.limit is None or trust.limit >= MIN_IMAGES
    assert (attack.limit or 10**9) >= (trust.limit or 10**9), "survivors are known on all"
    assert suite.store_adversarial != "none", "V6 and B3 read them"
    defenses = {spec.name for spec in suite.defenses}
    assert "standard" in defenses, "the undefended twin of T2"
    assert len(suite.defenses) > ROWS, "B3 takes two other rows"


def test_only_what_declares_an_attack_of_its_own_is_in_reach_of_a() -> None:
    declared = {entry.name for entry in registry.defenses if entry.adaptive is not None}
    assert declared == DECLARED, "docs/trust.md names them"
    suites_with = {name for name in ATTACKED if DECLARED & {spec.name for spec in load_suite(name).defenses}}
    assert suites_with == {"neighbours", "randomised"}


@pytest.mark.slow
def test_a_row_of_a_board_has_grade_a(tmp_path: Path, write_suite: Callable[..., Path]) -> None:
    rows = ["standard:backbone=convnet-w4", "adversarial_training:backbone=convnet-w4", "smoothing:backbone=convnet-w4"]
    suite = write_suite(tmp_path / "three.toml", rows, EVALUATIONS, epochs=12)
    done = pipeline.run(Options(str(suite), {"seeds": (0,)}, out=tmp_path / "out"))
    assert done.code == 0, done.failures
    with Store.open(tmp_path / "out") as store:
        board = build(store)
    grades = {row.defense.partition(":")[0]: (row.trust, row.assessment.short_of_a) for row in board.rows}
    assert grades["smoothing"] == (Grade.A, ())
    grade, short = grades["standard"]  # T1 plants nothing behind eight features
    assert (grade, short[-1]) == (Grade.B, "no attack made for this very defense was declared")
