"""Certificates through the whole pipeline: what is proved of networks that were trained, and that C1 holds for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bench
from bench.reports.board.build import build
from bench.reports.board.model import Board
from bench.running import pipeline
from bench.running.prepare import Options
from bench.store.store import Store
from bench.trust.checks.stored import within_certificate
from bench.trust.evidence import Evidence, Measured
from bench.trust.records import Finding

EVALUATIONS = """
[evaluations.accuracy]
limit = 40
[evaluations.pgd_l2]
eps = [0.1]
limit = 40
[evaluations.fmn_l2]
eps = [0.5]
steps = 50
limit = 40
[evaluations.certificate]
limit = 40
"""
NETS = Path(__file__).resolve().parents[3] / "docs" / "examples" / "nets"


def board_and_check(out: Path) -> tuple[Board, dict[str, Finding]]:
    """Return the board of a result folder, and what C1 says of each of its rows."""
    with Store.open(out) as store:
        board = build(store)
    assert board.plan.suite.threat is not None
    found = {}
    for name, table in board.examples.groupby("defense"):
        index = table["index"].to_numpy()
        columns = tuple(Measured(index, table[c], facts) for c, facts in board.facts.items() if c in table)
        found[str(name)] = within_certificate(Evidence(board.plan.suite.threat, columns))
    return board, found


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_suite) -> Path:
    """Return a board of two networks: one whose certificate says something, with kinks, and a plain smooth one."""
    place = tmp_path_factory.mktemp("bracket")
    suite = write_suite(place / "s.toml", ["cayley", "standard"], EVALUATIONS, primary_eps=0.1, epochs=12)
    pipeline.run(Options(suite=str(suite), narrow={"train_limit": 600}, out=place / "out", quiet=True))
    return place / "out"


def test_the_bracket_of_a_trained_orthogonal_network_says_something(trained):
    board, checks = board_and_check(trained)
    brackets = {row.defense: row.bracket(0.1) for row in board.rows}
    plain, orthogonal = brackets["standard"], brackets["cayley"]
    assert plain is not None
    assert orthogonal is not None
    assert plain.proved == 0 < 0.3 < orthogonal.proved <= orthogonal.unbroken < 1
    assert {(b.rank_low, b.rank_high) for b in (plain, orthogonal)} == {(1, 2)}  # the plain one may still lose all
    table = bench.load_results(trained).leaderboard.set_index("defense")
    assert table.loc["cayley", "certified_l2_0.1"] == orthogonal.proved
    assert table.loc["cayley", "bracket_l2_0.1"].startswith(f"proved ≥ {100 * orthogonal.proved:.1f}, broken ≤ ")
    assert table.loc["standard", "certified_l2_0.1"] == 0
    assert all(c.verdict == "pass" and "certified radii" in c.words for c in checks.values()), checks


def test_nothing_is_nearer_than_the_certified_radius(trained):
    found = bench.load_results(trained).examples
    radius, nearest, kinks = found["certified_radius"], found["fmn_l2_0.5_nearest"], found["defense"] == "cayley"
    assert not (nearest < radius).any()
    assert (radius > 0.1 * nearest)[kinks].mean() > 0.3
    assert found.loc[kinks, "jacobian_lipschitz"].isna().all()  # sorted pairs: no Lipschitz constant of the Jacobian
    assert np.isfinite(found.loc[~kinks, "jacobian_lipschitz"]).all()


def test_a_published_certified_network_is_not_broken_inside_its_radius(tmp_path, cli, real_images):
    """It was trained for certificates at 36/255 from a linear program; products of norms prove nothing that far out."""
    suite = tmp_path / "nets.toml"
    head = (NETS / "cifar10-nets.toml").read_text().partition("[evaluations")[0]
    suite.write_text(head + EVALUATIONS.replace("[0.1]", '[0.01, 0.04, "36/255"]').replace("= 40", "= 32"))
    weights = real_images / "nets" / "wong2018-l2-36.safetensors"
    place = ("--suite", suite, "--data", real_images, "--out", tmp_path / "out", "--device", "cpu")
    done = cli("evaluate", *place, "--model", f"{NETS / 'nets.py'}:wong2018_l2_36", "--weights", weights)
    assert done.code == 0, done.err
    _, checks = board_and_check(tmp_path / "out")
    (check,) = checks.values()
    assert check.verdict == "pass", check
    found = bench.load_results(tmp_path / "out").examples
    right = found["clean_correct"]
    assert (found.loc[right, "certified_radius"] > 0).all()
    assert (found["certified_radius"] < 36 / 255).all()
    assert found["jacobian_lipschitz"].isna().all()  # ReLU
    assert not (found["fmn_l2_0.5_nearest"] < found["certified_radius"]).any()
    assert found["pgd_l2_0.141176_robust"].mean() > 0.3
