"""Detection curves: counting, intervals, limits, and parity with other libraries at equal settings."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import pkgutil
import sys
import tomllib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.attacks import peers
from bench.attacks.apgd import apgd
from bench.attacks.fab import fab
from bench.attacks.fgsm import fgsm
from bench.attacks.noise import noise
from bench.attacks.peers import advlib, attackbench, cleverhans, foolbox, pyautoattack, secml, torchattacks
from bench.attacks.pgd import pgd
from bench.attacks.pgd_released import pgd_released
from bench.cli.measured import save_measured
from bench.core import registry
from bench.core.stats.intervals import wilson
from bench.trust.detection import ATTACKS, LEFT_OUT, LEVELS, PEER_PACKAGES, SEEDS, MeasuredAttack, measure_detection
from bench.trust.detection_curves import Curve, DetectionReport, MeasuredLevel, find_limit, summary_line
from bench.trust.maxout import EDGE, EPS, Level
from bench.trust.planted import build, recall
from tests.attacks.test_peers import optional

ROOT = Path(__file__).parents[3]
PEERS = [importlib.import_module(f"{peers.__name__}.{info.name}") for info in pkgutil.iter_modules(peers.__path__)]
EQUAL_PGD = [
    pytest.param(foolbox.pgd, id="foolbox"),
    pytest.param(cleverhans.pgd, id="cleverhans"),
    pytest.param(torchattacks.pgd, id="torchattacks", marks=optional["torchattacks"]),
    pytest.param(partial(secml.pgd, steps=41, rel_stepsize=2.5 / 40), id="secml", marks=optional["secmlt"]),
]  # secml does not look at its last point: one step more and each as long


def offered(library):
    """Return the attacks of a module of attacks/peers by their name in the report."""
    title = library.__name__.rpartition(".")[2].replace("pyautoattack", "official")
    return {
        f"{title} {name}": function
        for name, function in vars(library).items()
        if inspect.isfunction(function)
        and function.__module__ == library.__name__
        and not name.startswith("_")
        and {"eps", "norm"} <= set(inspect.signature(function).parameters)
    }


def unprojected(model, x, y, **settings):
    return (x + 10 * (pgd(model, x, y, **settings) - x)).clamp(0, 1)


def without_a_library(model, x, y, **settings):
    raise ModuleNotFoundError("no such library")


@pytest.fixture(scope="module")
def report():
    attacks = {
        "pgd": MeasuredAttack(pgd, ranks_suites=True),
        "outside": MeasuredAttack(unprojected),
        "absent": MeasuredAttack(without_a_library),
    }
    levels = (Level(-0.5), Level(0.1), Level(0.1, own=False))
    return measure_detection(images=12, levels=levels, seeds=(4, 5), attacks=attacks)


def test_only_what_the_judge_accepts_is_counted(report):
    right, outside = report.curves
    assert right.found.shape == (3, 2)
    assert right.shares()[0] >= 0.9
    assert right.shares()[1] < right.shares()[0]
    assert (outside.found == 0).all()


def test_an_attack_whose_library_is_absent_is_named_and_has_no_curve(report):
    assert report.not_installed == ("absent",)
    assert [c.attack for c in report.curves] == ["pgd", "outside"]


def test_the_counts_are_those_of_each_network(report):
    for row, level in enumerate((Level(-0.5), Level(0.1))):
        for column, seed in enumerate((4, 5)):
            truth = build(level, n=12, seed=seed)
            assert report.curves[0].found[row, column] == recall(pgd, truth, seed=seed).found.sum()


def test_the_record_is_plain_data_and_the_last_line_names_the_suites_attacks(report):
    record = json.loads(json.dumps(report.record()))
    assert record["attacks"][0]["found"] == report.curves[0].found.tolist()
    assert record["levels"][2]["own_decoys"] is False
    assert record["levels"][0]["hardness_bits"] < record["levels"][1]["hardness_bits"]
    assert "pgd" in summary_line(report)
    assert "outside" not in summary_line(report)


def test_a_saved_record_says_where_it_comes_from_without_a_path_of_the_machine(report, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys,
        "argv",
        ["bench", "doctor", "--data", str(tmp_path), f"--to={tmp_path}", "--save", str(tmp_path / "a.json")],
    )
    save_measured(tmp_path / "new" / "detection.json", report.record(), 12.34)
    saved = json.loads((tmp_path / "new" / "detection.json").read_text("utf-8"))
    measured = saved.pop("measured")
    assert saved == json.loads(json.dumps(report.record()))
    assert measured["command"] == "python -m bench doctor --data DIR --to=DIR --save a.json"
    assert measured["seconds"] == 12.3
    assert measured["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"command", "commit", "date", "machine", "versions"} <= set(measured)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["detection.json"]


def curve(shares, images=100):
    found = np.round(np.array(shares)[:, None] * images * np.ones(3)).astype(int)
    return Curve("a", found, images, ranks_suites=True, note="")


def test_intervals_are_wilsons_over_all_networks():
    assert curve([0.9]).intervals()[0] == pytest.approx(wilson(270, 300))
    low, high = curve([1.0]).intervals()[0]
    assert high == 1
    assert low == pytest.approx(0.025 ** (1 / 300)), "exact at the ends"


@pytest.mark.parametrize(
    ("points", "held", "missed", "bits"),
    [
        ([(0.1, 1.0), (1.0, 0.97), (3.0, 0.93), (5.0, 0.1)], 1.0, 3.0, 2.0),
        ([(0.1, 1.0), (1.0, 0.95)], 1.0, math.inf, 1.0),
        ([(0.2, 0.9), (1.0, 0.99)], 0.0, 0.2, 0.1),
        ([], 0.0, math.inf, 0.0),
        ([(1.0, 0.99), (math.inf, 0.1)], 1.0, math.inf, 1.0),
    ],
)
def test_the_limit_is_where_recall_first_falls_below_95_percent(points, held, missed, bits):
    limit = find_limit(points)
    assert (limit.held, limit.missed) == (held, missed)
    assert limit.bits == pytest.approx(bits)


def test_levels_without_own_decoys_do_not_move_the_limit():
    levels = (MeasuredLevel(Level(0.0), 0.25, 0.5), MeasuredLevel(Level(0.1, own=False), 0.2, 1.0))
    found = DetectionReport(levels, (curve([1.0, 0.0]),), (0, 1, 2), ())
    assert found.limit(found.curves[0]).held == 2.0
    assert math.isinf(found.limit(found.curves[0]).missed)
    assert "at least 2.0 bits" in summary_line(found)


def test_every_registered_attack_on_l2_is_measured():
    """A file dropped into attacks/ is registered: it needs a line in ATTACKS and a new measurement."""
    measured = {attack.written for attack in ATTACKS.values()}
    own = [a for a in registry.attacks if a.function.__module__.startswith("bench.attacks.") and "l2" in a.norms]
    assert len(own) >= 11
    assert not [entry.name for entry in own if inspect.unwrap(entry.function) not in measured]
    assert all(not attack.library for name, attack in ATTACKS.items() if attack.written.__name__ == name)


@pytest.mark.parametrize("library", PEERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_attack_of_every_library_is_measured_or_left_out_with_a_reason(library):
    measured = {attack.written: attack for attack in ATTACKS.values()}
    found = offered(library)
    assert not [name for name in found if found[name] not in measured and name not in LEFT_OUT]
    assert not [name for name in found if found[name] in measured and name in LEFT_OUT]
    libraries = {measured[function].library for function in found.values() if function in measured}
    assert libraries == {library.__name__.rpartition(".")[2]}


def test_what_is_left_out_has_no_l2():
    found = {name: function for library in PEERS for name, function in offered(library).items()}
    assert set(found) >= set(LEFT_OUT)
    for name in LEFT_OUT:
        with pytest.raises(ValueError, match=r"expected a norm among \['linf'\]"):
            found[name](torch.nn.Identity(), torch.rand(1, 1, 2, 2), torch.tensor([0]), eps=0.1, norm="l2")


def test_the_versions_of_all_optional_libraries_are_saved(tmp_path):
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["peers"]
    assert {*PEER_PACKAGES, "tqdm"} == {requirement.split(">")[0] for requirement in extra}
    save_measured(tmp_path / "a.json", {}, 1.0, ("pytest", "no-such-package"))
    versions = json.loads((tmp_path / "a.json").read_text("utf-8"))["measured"]["versions"]
    assert versions["pytest"] == pytest.__version__
    assert "no-such-package" not in versions


def test_every_attack_runs_with_what_is_installed():
    """Small nets: what costs minutes is in the shipped measurement."""
    costly = {name for name, attack in ATTACKS.items() if attack.family in ("ensemble", "no gradient")}
    attacks = {name: attack for name, attack in ATTACKS.items() if name not in costly}
    report = measure_detection(images=4, levels=(Level(-0.5),), seeds=(7,), attacks=attacks)
    assert {*(curve.attack for curve in report.curves), *report.not_installed} == set(attacks)
    for curve in report.curves:
        assert curve.family
        assert curve.library == attacks[curve.attack].library


@pytest.mark.parametrize("peer", EQUAL_PGD)
@pytest.mark.parametrize("tau", [-0.1, 0.0])
def test_other_libraries_find_the_same_images_at_equal_settings(tau, peer):
    """From the image itself, 40 steps on cross-entropy, no closing step: nothing is left to chance."""
    truth = build(Level(tau), n=100, seed=7)
    ours = recall(partial(pgd, losses=("ce",), random_start=False, final_step=False), truth).found
    theirs = recall(partial(peer, random_start=False), truth).found
    assert int((ours != theirs).sum()) == 0
    assert 0.2 < ours.float().mean() < 0.98, "a level that could tell them apart"


@pytest.mark.parametrize(
    ("ours", "theirs", "tau"),
    [
        pytest.param(fgsm, foolbox.fgsm, -0.1, id="foolbox fgsm"),
        pytest.param(fgsm, cleverhans.fgsm, -0.1, id="cleverhans fgsm"),
        pytest.param(fab, pyautoattack.fab, 0.0, id="official fab"),
        pytest.param(pyautoattack.apgd, advlib.apgd, -0.1, id="advlib apgd", marks=optional["adv_lib"]),
        pytest.param(pyautoattack.apgd, attackbench.apgd, -0.1, id="attackbench apgd", marks=optional["attackbench"]),
    ],
)
def test_what_leaves_nothing_to_chance_finds_the_same_images(ours, theirs, tau):
    """Fast gradient steps and FAB draw nothing; with seed 0 all three versions of Auto-PGD draw the same starts."""
    truth = build(Level(tau), n=30, seed=7)
    found = recall(ours, truth).found
    assert torch.equal(found, recall(theirs, truth).found)
    assert 0.2 < found.float().mean() < 0.98, "a level that could tell them apart"


def test_our_auto_pgd_finds_as_many_as_the_official_one():
    truth = build(Level(-0.1), n=150, seed=7)
    ours, theirs = (recall(attack, truth).share for attack in (apgd, pyautoattack.apgd))
    assert abs(ours - theirs) <= 3 * math.sqrt(2 * 0.25 / 150)


def test_one_step_finds_what_the_gradient_at_the_image_points_to():
    """At the image the planted piece leads, or not: where it does, nearly all of the gradient is its slope."""
    truth = build(Level(-0.5), n=60, seed=7)
    assert recall(fgsm, truth).share == 1
    assert recall(fgsm, build(Level(0.2), n=60, seed=7)).share == 0


def test_random_points_find_nothing():
    """A random direction lies in a cap w·d > 0.8·eps with a chance below exp(−64·0.8²/2) (Ball 1997, lemma 2.2)."""
    chance = math.exp(-64 * EDGE**2 / 2)
    truth = build(Level(-0.5), n=60, seed=7)
    assert 60 * 100 * chance < 1e-4
    assert recall(noise, truth).share == 0


def test_the_released_helper_hardly_reaches_the_cap():
    """On a linear loss ten steps of a tenth use tanh(1) = 0.76 of the radius; the cap begins at 0.8."""
    truth = build(Level(-0.5), n=60, seed=7)
    points = pgd_released(truth.network, truth.x, truth.y, eps=EPS)
    along = ((points - truth.x).flatten(1) * truth.network.planted).sum(1) / truth.network.planted.norm(dim=1) / EPS
    assert math.tanh(1) < EDGE
    assert abs(float(along.median()) - math.tanh(1)) < 0.04
    assert recall(pgd_released, truth).share < recall(pgd, truth).share


def test_from_random_starts_other_libraries_find_as_many():
    """One run of 40 steps on cross-entropy: ours, foolbox's and cleverhans' differ by chance alone (3 sigma)."""
    truth = build(Level(-0.1), n=150, seed=7)
    ours = recall(partial(pgd, losses=("ce",)), truth).share
    for peer in (foolbox.pgd, cleverhans.pgd):
        theirs = recall(peer, truth).share
        assert abs(ours - theirs) <= 3 * math.sqrt(2 * 0.25 / 150)
    assert 0.3 < ours < 0.8, "a level that could tell them apart"


def test_more_runs_find_more():
    truth = build(Level(0.0), n=60, seed=7)
    assert recall(partial(pgd, restarts=5), truth).share >= recall(pgd, truth).share + 0.15


def test_the_shipped_set_is_what_the_protocol_asks_for():
    assert len([level for level in LEVELS if level.own]) >= 6
    assert len(SEEDS) >= 3
    assert {name for name, attack in ATTACKS.items() if attack.ranks_suites} == {"pgd", "autoattack"}


@pytest.mark.parametrize("option", [["--full"], ["--save", "x.json"]], ids=str)
def test_full_and_save_without_detection_are_refused(cli, option):
    finished = cli("doctor", *option)
    assert finished.code == 2
    assert "--detection" in finished.err


@pytest.mark.slow
def test_the_command_measures_every_attack_on_every_level(cli):
    finished = cli("doctor", "--detection", "--json")
    assert finished.code == 0
    record = json.loads(finished.out)
    assert len(record["levels"]) == len(LEVELS)
    measured = {a["attack"]: a for a in record["attacks"]}
    assert {*measured, *record["not_installed"]} == set(ATTACKS)
    assert measured["autoattack"]["share"][1] >= 0.95
    assert measured["pgd"]["share"][0] >= 0.95
