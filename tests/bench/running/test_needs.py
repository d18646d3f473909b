"""Evaluations that read other cells: what a suite gets by itself, what is found, in which order jobs run."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.config.suite_file import load_suite
from bench.core.errors import UsageError
from bench.data import catalog
from bench.running.plan import make_plan
from bench.running.schedule import Schedule
from bench.store.store import Store

REFERENCE = "[evaluations.autoattack_l2]\neps = [0.5]\nlimit = 12\n"
PGD = "[evaluations.pgd_l2]\neps = [0.5]\nlimit = 12\n"


@pytest.fixture
def planned(tmp_path, write_suite):
    """Return what plans a suite of evaluations, with more text in front of them."""
    digits = catalog.load("digits", train_limit=20, limit=20)

    def plan(evaluations, defenses=("standard", "lcnn"), head=""):
        path = write_suite(tmp_path / "suite.toml", list(defenses), evaluations)
        text = path.read_text().replace("[recipe]", f"{head}\n[recipe]", 1)
        path.write_text(text.replace("primary_eps = 0.5\n", "") if "[threat]" in text else text)
        return make_plan(load_suite(str(path)), digits, torch.device("cpu"), tmp_path / "out")

    return plan


def keys(plan):
    return [p.entry.key for p in plan.evaluations]


def test_transfer_comes_where_a_reference_attacks_examples_are_stored(planned):
    plan = planned(PGD + REFERENCE)
    assert keys(plan) == ["pgd_l2", "autoattack_l2", "transfer_l2"]
    transfer = plan.evaluations[-1]
    assert [(i.need.role, i.need.of, i.evaluation, i.column) for i in transfer.inputs] == [
        ("adversarial", "others", "autoattack_l2", "autoattack_l2_0.5_adversarial"),
        ("robust", "own", "autoattack_l2", "autoattack_l2_0.5_robust"),
    ]
    assert transfer.split.fingerprint == plan.evaluations[1].split.fingerprint
    assert transfer.entry.arguments["eps"] == [0.5]


@pytest.mark.parametrize(
    ("evaluations", "defenses", "head"),
    [
        (PGD, ("standard", "lcnn"), ""),  # no reference attack: what PGD breaks is stored, and tried on nobody
        (PGD, ("standard", "lcnn"), 'store_adversarial = "all"'),
        (REFERENCE, ("standard",), ""),  # nobody to transfer from
        (REFERENCE, ("standard", "lcnn"), 'store_adversarial = "none"'),
    ],
)
def test_without_them_there_is_no_transfer(planned, evaluations, defenses, head):
    assert not [key for key in keys(planned(evaluations, defenses, head)) if key.startswith("transfer")]


def test_another_norm_has_its_own_transfer_and_audit(planned):
    attack = "[evaluations.autoattack_linf]\neps = [0.03]\nlimit = 12\n"
    plan = planned(attack + '[threat]\nnorm = "linf"\neps = 0.03\n', head="audit = 4").evaluations
    assert [p.entry.key for p in plan] == ["autoattack_linf", "audit_linf", "transfer_linf"]
    attacked, audit, transfer = plan
    assert attacked.keep_images == {"autoattack_linf_0.03_adversarial"}
    assert [i.column for i in transfer.inputs] == ["autoattack_linf_0.03_adversarial", "autoattack_linf_0.03_robust"]
    assert len(audit.split) == 4
    assert audit.index is not None
    assert set(audit.index) < set(range(12))


def test_the_key_repeat_asks_for_images_of_its_own_number(planned):
    plan = {p.entry.key: p for p in planned(REFERENCE, head="repeat = 16").evaluations}
    assert set(plan) == {"autoattack_l2", "repeat_l2", "transfer_l2"}
    repeat = plan["repeat_l2"]
    assert len(repeat.split) == 16, "the attack that ranks sees 12 only; that does not limit the repeat"
    assert repeat.index is not None
    assert set(repeat.index) <= set(range(16))
    assert repeat.entry.arguments["eps"] == [0.5]
    assert "repeat_l2" not in keys(planned(REFERENCE))


def test_an_evaluation_named_by_the_suite_is_not_there_twice(planned):
    assert keys(planned(REFERENCE + "[evaluations.transfer_l2]\nlimit = 12\n")) == ["autoattack_l2", "transfer_l2"]


@pytest.mark.parametrize(
    ("evaluations", "head", "message"),
    [
        (
            PGD + "[evaluations.transfer_l2]\n",
            'store_adversarial = "none"',
            "expected an evaluation whose column 'adversarial' it can read at l2 0.5",
        ),
        (
            REFERENCE + "[evaluations.transfer_l2]\neps = [0.1]\n",
            "",
            r"transfer_l2\.eps: expected \[0\.5\], the suite's",
        ),
    ],
)
def test_a_need_that_is_not_met_is_said(planned, evaluations, head, message):
    with pytest.raises(UsageError, match=message):
        planned(evaluations, head=head)


TRAIN = "[evaluations.train_pgd_l2]\nevaluation = 'pgd_l2'\nsplit = 'train'\neps = [0.5]\nlimit = 12\n"
OTHER = "[evaluations.autoattack_l2]\neps = [0.1]\nlimit = 12\n"


@pytest.mark.parametrize(
    ("evaluations", "head", "kept"),
    [
        (PGD, "", {"pgd_l2": {"pgd_l2_0.5_adversarial"}}),
        (PGD + REFERENCE, "", {"pgd_l2": set(), "autoattack_l2": {"autoattack_l2_0.5_adversarial"}}),
        (PGD + OTHER, "", {"pgd_l2": {"pgd_l2_0.5_adversarial"}, "autoattack_l2": set()}),
        (PGD + TRAIN, "", {"pgd_l2": {"pgd_l2_0.5_adversarial"}, "train_pgd_l2": set()}),
        (PGD, 'store_adversarial = "none"', {"pgd_l2": set()}),
        (PGD, 'store_adversarial = "all"', {"pgd_l2": None}),
    ],
)
def test_the_examples_of_the_attack_that_ranks_are_stored(planned, evaluations, head, kept):
    found = {p.entry.key: p.keep_images for p in planned(evaluations, head=head).evaluations}
    assert {key: found[key] for key in kept} == kept


def test_what_reads_other_runs_waits_for_all_of_them(planned):
    schedule = Schedule(planned(PGD + REFERENCE, ("standard", "lcnn", "gradreg")))
    order = [job.id for job in schedule.jobs]
    assert order[:3] == [(0, "train"), (0, "pgd_l2"), (0, "autoattack_l2")]
    assert order[-3:] == [(0, "transfer_l2"), (1, "transfer_l2"), (2, "transfer_l2")]
    assert {job.id for job in schedule.inputs(schedule.jobs[-1])} == {
        (2, "train"), (2, "autoattack_l2"), (0, "autoattack_l2"), (1, "autoattack_l2"),
    }  # fmt: skip


MINE = """
import bench
from bench.core.records import Column, Need

@bench.evaluation(source="a test", columns={"agrees": Column("Right, as stored and now.", kind="flag")},
                  needs=(Need(role="clean", of="own"),))
def agreement(model, x, y, *, inputs, seed: int = 0):
    return {"agrees": (model(x).argmax(1) == y) == inputs.own["clean"].to(bool)}
"""


def test_an_evaluation_of_a_users_own_reads_its_runs_verdicts(tmp_path, write_suite, cli):
    path, out = tmp_path / "mine.py", tmp_path / "out"
    path.write_text(MINE)
    evaluations = "[evaluations.agreement]\nlimit = 15\n[evaluations.accuracy]\nlimit = 20\n"
    suite = write_suite(tmp_path / "suite.toml", ["standard"], evaluations, epochs=1)
    arguments = ("run", "--suite", suite, "--include", path, "--out", out, "--train-limit", 60)
    waits = cli(*arguments, "--dry-run")
    assert waits.code == 0, waits.err
    done = cli(*arguments)
    assert done.code == 0, done.err
    with Store.open(out) as store:
        run = store.plans.latest().rows[0]
        agrees = store.table(run.evaluations["agreement"])
        spec = store.cell(run.evaluations["agreement"]).spec
    assert list(agrees["index"]) == list(range(15))
    assert agrees["agrees"].all()
    assert spec["inputs"] == {"own clean": run.evaluations["accuracy"]}
    assert pd.read_parquet(Path(out) / "examples.parquet")["agrees"].sum() == 15
