"""The shipped detection measurement: complete, consistent, the same in the docs; other libraries agree with ours."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import bench.trust
from bench.core.stats.intervals import fraction_interval
from bench.trust.detection import ATTACKS, FULL_IMAGES, LEVELS, PEER_PACKAGES, SEEDS
from bench.trust.detection_curves import find_limit
from bench.trust.planted import build, recall
from benchmarks.detection_figure import draw, table

SHIPPED = Path(bench.trust.__file__).parent / "measured" / "detection.json"
DOCS = Path(__file__).parents[3] / "docs" / "measured.md"


@pytest.fixture(scope="module")
def record():
    return json.loads(SHIPPED.read_text("utf-8"))


@pytest.fixture(scope="module")
def measured(record):
    return {attack["attack"]: attack for attack in record["attacks"]}


def test_it_is_the_full_measurement_of_every_attack(record, measured):
    """An attack or a library that was added, or set otherwise, needs a new one."""
    assert record["not_installed"] == []
    shown = {name: (attack["settings"], attack["family"], attack["library"]) for name, attack in measured.items()}
    assert shown == {name: (attack.note, attack.family, attack.library) for name, attack in ATTACKS.items()}
    assert set(PEER_PACKAGES) <= set(record["measured"]["versions"])
    assert record["network_seeds"] == list(SEEDS)
    assert [(level["tau"], level["own_decoys"]) for level in record["levels"]] == [(v.tau, v.own) for v in LEVELS]
    assert all(attack["images_per_network"] == FULL_IMAGES for attack in measured.values())
    assert "--full" in record["measured"]["command"]
    assert not record["measured"]["commit"].endswith("+")


def test_shares_intervals_and_limits_follow_from_the_counts(record, measured):
    n = FULL_IMAGES * len(SEEDS)
    own = [i for i, level in enumerate(record["levels"]) if level["own_decoys"]]
    for attack in measured.values():
        shares = [sum(found) / n for found in attack["found"]]
        assert attack["share"] == pytest.approx(shares)
        for share, interval in zip(shares, attack["interval"], strict=True):
            assert interval == pytest.approx(fraction_interval(share, n))
        limit = find_limit((record["levels"][i]["hardness_bits"], shares[i]) for i in own)
        assert attack["limit_bits"] == pytest.approx(limit.bits)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("pgd, 1 run", "foolbox pgd"),
        ("pgd, 1 run", "cleverhans pgd"),
        ("apgd", "official apgd"),
        ("apgd", "attackbench apgd"),
        ("autoattack", "official autoattack"),
        ("autoattack", "autoattack_raced"),
    ],
)
def test_at_equal_settings_other_libraries_find_as_many(measured, ours, theirs):
    """Their starts are others: on every level the shares differ by chance alone (3 sigma of two of 600)."""
    n = FULL_IMAGES * len(SEEDS)
    for a, b in zip(measured[ours]["share"], measured[theirs]["share"], strict=True):
        mean = (a + b) / 2
        assert abs(a - b) <= 3 * math.sqrt(2 * mean * (1 - mean) / n) + 2 / n


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fgsm", "foolbox fgsm"),
        ("fgsm", "cleverhans fgsm"),
        ("fab", "official fab"),
        ("official apgd", "advlib apgd"),
    ],
)
def test_what_leaves_nothing_to_chance_finds_equally_many_on_every_network(measured, one, other):
    """Steps without draws, and Auto-PGD made from the official one, with its seed; rounding may move an image."""
    differences = np.array(measured[one]["found"]) - np.array(measured[other]["found"])
    assert np.abs(differences).max() <= 2


def test_what_sees_decisions_alone_finds_as_many_on_every_level(measured):
    """An image is misclassified where the planted piece exceeds 1, at w·d > 0.8·eps whatever its onset, or a decoy."""
    own = [i for i, level in enumerate(LEVELS) if level.own]
    found = np.array(measured["hopskipjump"]["found"])[own]
    assert (np.abs(found - found[0]) <= 2).all()
    assert found.min() > 0


@pytest.mark.parametrize(
    ("level", "names"),
    [
        (4, ("pgd, 1 run", "pgd", "pgd, 20 runs", "apgd")),
        (1, ("autoattack", "fab")),
        pytest.param(2, ("autoattack", "fab"), marks=pytest.mark.slow),
        pytest.param(3, ("autoattack", "fab"), marks=pytest.mark.slow),
        pytest.param(4, ("autoattack", "fab"), marks=pytest.mark.slow),
        pytest.param(6, ("autoattack", "fab"), marks=pytest.mark.slow),
    ],
)
def test_our_attacks_find_today_what_is_stored(measured, level, names):
    """On the network of the first seed; another processor's rounding may move a few of its 200 images."""
    truth = build(LEVELS[level], n=FULL_IMAGES, seed=SEEDS[0])
    for name in names:
        found = int(recall(ATTACKS[name].function, truth, seed=SEEDS[0]).found.sum())
        print(f"{name}, level {level}: {found} of {FULL_IMAGES}, stored {measured[name]['found'][level][0]}")
        assert abs(found - measured[name]["found"][level][0]) <= 3


def test_the_docs_have_its_table_and_its_commit(record):
    text = DOCS.read_text("utf-8")
    for line in table(record):
        assert line in text
    assert f"Measured at commit {record['measured']['commit'][:7]}" in text


def test_the_figure_is_drawn(record, tmp_path):
    draw(record, tmp_path / "detection.png")
    assert (tmp_path / "detection.png").read_bytes()[:4] == b"\x89PNG"
