"""Detection curves: counting, intervals, limits, and parity with other libraries at equal settings."""

from __future__ import annotations

import json
import math
import sys
from functools import partial

import numpy as np
import pytest
import torch

from bench.attacks.peers import cleverhans, foolbox
from bench.attacks.pgd import pgd
from bench.cli.measured import save_measured
from bench.core.stats.intervals import wilson
from bench.trust.detection import ATTACKS, LEVELS, SEEDS, MeasuredAttack, measure_detection
from bench.trust.detection_curves import Curve, DetectionReport, MeasuredLevel, find_limit, summary_line
from bench.trust.maxout import Level
from bench.trust.planted import build, recall


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
        sys, "argv", ["bench", "doctor", "--data", str(tmp_path), f"--to={tmp_path}", "--save", "a.json"]
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


@pytest.mark.parametrize("tau", [-0.1, 0.0])
def test_other_libraries_find_the_same_images_at_equal_settings(tau):
    """From the image itself, 40 steps on cross-entropy, no closing step: nothing is left to chance."""
    truth = build(Level(tau), n=100, seed=7)
    ours = recall(partial(pgd, losses=("ce",), random_start=False, final_step=False), truth).found
    for peer in (foolbox.pgd, cleverhans.pgd):
        theirs = recall(partial(peer, random_start=False), truth).found
        assert int((ours != theirs).sum()) == 0
    assert 0.2 < ours.float().mean() < 0.98, "a level that could tell them apart"


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
