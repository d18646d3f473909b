"""Attacks of a board as results of AttackBench: its keys, the hashes of the images, the store's numbers; no guesses."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import bench
from bench.core.errors import IntegrityError, UsageError
from bench.data import catalog
from bench.data.split import Split
from bench.running import pipeline
from bench.running.attackbench import image_hashes, write_attackbench
from bench.running.prepare import Options
from bench.store.store import Store

ATTACKS = """
[evaluations.fmn_l2]
eps = [0.1, 0.3]
steps = 8
limit = 30
[evaluations.fmn_linf]
eps = [0.02]
steps = 999
limit = 2
[evaluations.pgd_l2]
steps = 1
limit = 30
"""
NAME = "digits-l2-standard_seed0-fmn-bench-30.json"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, write_suite) -> Path:
    """Return a board of one network, an attack within AttackBench's budget and one above it."""
    place = tmp_path_factory.mktemp("entered")
    suite = write_suite(place / "tiny.toml", ["standard"], ATTACKS, epochs=4)
    pipeline.run(Options(suite=str(suite), narrow={"train_limit": 600}, out=place / "out", quiet=True))
    return place / "out"


@pytest.fixture(scope="module")
def entry(attacked, tmp_path_factory) -> dict[str, object]:
    """Return the content of the one file that is written."""
    to = tmp_path_factory.mktemp("files")
    done = write_attackbench(attacked, to)
    assert done.written == (to / NAME,)
    (reason,) = done.left_out
    assert reason == "standard seed 0, fmn_linf: 2001 passes for one image, and AttackBench allows 2000"
    return json.loads((to / NAME).read_text())


def test_every_image_is_named_by_its_sha512(entry):
    images = catalog.load("digits", need_train=False).test.pixels()[:30]
    assert images.dtype == np.float32
    assert entry["hashes"] == [hashlib.sha512(image.tobytes()).hexdigest() for image in images]


def test_stored_bytes_are_hashed_as_the_pixels_that_torchvision_makes_of_them():
    """ToTensor divides by 255 in float32: the last bit counts, or no image of CIFAR-10 is found there."""
    stored = np.arange(256, dtype=np.uint8).reshape(4, 1, 8, 8)
    theirs = torch.from_numpy(stored).to(torch.float32).div(255).numpy()
    split = Split.of(stored, np.zeros(4))
    assert image_hashes(split.pixels()) == [hashlib.sha512(image.tobytes()).hexdigest() for image in theirs]


def test_distances_and_verdicts_are_the_stores(attacked, entry):
    found = bench.load_results(attacked).examples.sort_values("index")[:30]
    broken, wrong = ~found["fmn_l2_0.3_robust"].astype(bool), found["fmn_l2_0.3_broken_by"] == "clean"
    final = np.where(broken, found["fmn_l2_0.3_distance"], np.inf)
    best = found["fmn_l2_0.3_nearest"].to_numpy(float)
    assert 0 < broken.mean() < 1, "both kinds of image are tested"
    assert entry["adv_success"] == broken.tolist()
    assert entry["ori_success"] == wrong.tolist()
    assert entry["correct"] == (~wrong).tolist()
    assert entry["final_distances"] == {"l2": final.tolist()}
    mine = np.array(entry["distances"]["l2"])
    assert np.allclose(mine, np.where(wrong, 0, np.fmin(best, final)), rtol=1e-6)
    assert (mine <= final).all()
    assert (mine[~broken.to_numpy()] > 0.3).all()


def test_passes_are_counted_per_image_over_all_budgets(entry):
    """One pass to see what is right, and 9 of the search forward and backward; a share meets the smaller ball too."""
    forwards, backwards = np.array(entry["num_forwards"]), np.array(entry["num_backwards"])
    right = np.array(entry["correct"])
    assert set(forwards[right]) <= {10, 20}
    assert set(backwards[right]) <= {9, 18}
    assert not forwards[~right].any()
    assert entry["query_budget"] == 2000


def test_other_images_than_the_boards_are_refused(attacked, tmp_path):
    shutil.copytree(attacked, tmp_path / "out")
    with Store.open(tmp_path / "out") as store:
        plan = store.plans.board().plan
        other = plan.data.model_copy(update={"test": plan.data.test.model_copy(update={"fingerprint": "0" * 64})})
        moved = plan.model_copy(update={"data": other})
        number = store.plans.put(moved)
        cells = [
            (number, place, key, cell) for place, run in enumerate(plan.rows) for key, cell in run.evaluations.items()
        ]
        store.plans.bind_all(cells)
    with pytest.raises(IntegrityError, match="expected test images with SHA-256 000000000000"):
        write_attackbench(tmp_path / "out", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_board_without_such_an_attack_says_what_to_add(weakly_attacked, tmp_path):
    with pytest.raises(UsageError, match=r"got none\. Add \[evaluations\.fmn_l2\]"):
        write_attackbench(weakly_attacked, tmp_path / "to")


def test_the_command_names_files_and_what_is_left_out(attacked, tmp_path, cli):
    done = cli("results", "attackbench", "--out", attacked, "--to", tmp_path)
    assert (done.code, done.out.split()) == (0, [str(tmp_path / NAME)])
    assert "left out: standard seed 0, fmn_linf: 2001 passes" in done.err


def test_attackbench_reads_the_file_and_writes_the_same(attacked, tmp_path):
    """Its own functions: what it saves of a run, what it asks of an artifact, its hash, its score."""
    pytest.importorskip("attackbench", reason="optional library: tox -e peers")
    from attackbench.metrics import optimality, storage
    from attackbench.run import DEFAULT_QUERY_BUDGET, _hash_batch
    from attackbench.wandb import manager

    (path,) = write_attackbench(attacked, tmp_path / "ours").written
    ours = storage.load_precompiled_distances(str(path))
    assert manager._validate_precompiled_data(ours, path.name) is ours
    theirs, facts = storage.save_precompiled_distances(ours, output_dir=str(tmp_path / "theirs"))
    assert Path(theirs).name == path.name
    again = json.loads(Path(theirs).read_text())
    assert facts == {name: value for name, value in ours["metadata"].items() if name != "bench"}
    assert list(again) == list(ours)
    assert again | {"metadata": None} == ours | {"metadata": None}
    images = torch.from_numpy(catalog.load("digits", need_train=False).test.pixels()[:30].copy())
    assert ours["hashes"] == _hash_batch(images)
    assert ours["query_budget"] == DEFAULT_QUERY_BUDGET
    assert optimality.compute_local_optimality(ours, reference_results=[ours])["optimality"] == 1
