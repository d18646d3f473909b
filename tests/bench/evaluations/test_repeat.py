"""The repeated attacks: each run as the attack alone gives it, runs left out where nothing hangs on them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bench.attacks.apgd import apgd
from bench.attacks.fab import fab
from bench.attacks.square import square
from bench.core import registry
from bench.core.records import expand_columns
from bench.core.stats.repeat import KindRuns, only_by, repeat_bound
from bench.evaluations.repeat import KINDS, repeat_l2, repeat_linf
from bench.measuring.judge import judge

EPS, RUNS, CHEAP = 0.015, 3, {"steps": 3, "n_target_classes": 2, "n_queries": 20}
ATTACKS = {
    "apgd-ce": partial(apgd, loss="ce", steps=3),
    "apgd-t": partial(apgd, loss="targeted", steps=3, n_target_classes=2),
    "fab-t": partial(fab, steps=3, n_target_classes=2),
    "square": partial(square, n_queries=20),
}


class Waves(nn.Module):
    """0.3 x + sin(30 x): so many basins that short attacks differ from run to run."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.3 * x + torch.sin(30 * x)


def network() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network with many basins, images, and their labels: its own answers, some of them wrong on purpose."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 60), Waves(), nn.Linear(60, 5))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator) * (0.2 if p.ndim > 1 else 0.5)
    x = torch.rand(60, 1, 6, 6, generator=generator)
    y = model(x).argmax(1)
    y[::13] = (y[::13] + 1) % 5
    return model.eval(), x, y


@pytest.fixture(scope="module")
def measured():
    model, x, y = network()
    columns = {k: v.numpy() for k, v in repeat_l2(model, x, y, eps=[EPS], runs=RUNS, **CHEAP).items()}
    full = {}
    for name, attack in ATTACKS.items():
        seeds = range(1 if name == "fab-t" else RUNS)
        found = [attack(model, x, y, eps=EPS, norm="l2", seed=seed) for seed in seeds]
        full[name] = np.stack([judge(model, x, y, p, eps=EPS, norm="l2").broken.numpy() for p in found])
    return columns, full, (model(x).argmax(1) == y).numpy()


def kept(columns, name):
    m = 1 if name == "fab-t" else RUNS
    return np.stack([columns[f"repeat_l2_{EPS:g}_{name.replace('-', '_')}_{run}"] for run in range(m)])


def test_every_run_that_was_made_has_the_verdict_of_the_attack_alone(measured):
    columns, full, correct = measured
    for name in KINDS:
        runs = kept(columns, name)
        assert np.isnan(runs[:, ~correct]).all(), "wrong without an attack: no run says anything"
        assert not np.isnan(runs[0, correct]).any(), "the first run of each kind sees every image"
        made = ~np.isnan(runs)
        np.testing.assert_array_equal(runs[made] == 1, full[name][made])


def test_what_was_left_out_changes_neither_the_table_nor_the_bound(measured):
    columns, full, correct = measured
    whole = [KindRuns(name, runs[:, correct], name != "fab-t") for name, runs in full.items()]
    partly = [KindRuns(name, (kept(columns, name) == 1)[:, correct], name != "fab-t") for name in KINDS]
    assert sum(np.isnan(kept(columns, name)[:, correct]).sum() for name in KINDS) > 20
    assert only_by(whole) == only_by(partly)
    assert any(kind.alone for kind in only_by(whole)), "the case is empty: no kind was alone anywhere"
    assert repeat_bound(whole) == repeat_bound(partly)
    assert sum(repeat_bound(whole).seen_once.values()) > 0


def test_a_seed_that_is_used_moves_the_points(measured):
    columns, _, _ = measured
    for name, kind in KINDS.items():
        key = f"repeat_l2_{EPS:g}_{name.replace('-', '_')}_seed_used"
        assert (key in columns) == kind.has_random_part
        if kind.has_random_part:
            assert np.nanmax(columns[key]) == 1


def test_an_attack_that_ignores_its_seed_is_seen(monkeypatch):
    model, x, y = network()
    deaf = KINDS["apgd-ce"].attack
    ignoring = lambda *args, seed, **rest: deaf(*args, seed=0, **rest)  # noqa: E731
    monkeypatch.setattr(
        "bench.evaluations.repeat.KINDS",
        {"apgd-ce": type(KINDS["apgd-ce"])(ignoring, ("steps",)), "square": KINDS["square"]},
    )
    columns = repeat_l2(model, x, y, eps=[EPS], runs=2, **CHEAP)
    assert columns[f"repeat_l2_{EPS:g}_apgd_ce_seed_used"].nan_to_num(0).max() == 0
    assert columns[f"repeat_l2_{EPS:g}_square_seed_used"].nan_to_num(0).max() == 1


@pytest.mark.parametrize("function", [repeat_l2, repeat_linf])
def test_its_columns_are_declared_and_say_kind_run_and_budget(function):
    model, x, y = network()
    columns = function(model, x[:4], y[:4], eps=[0.02], runs=2, **CHEAP)
    facts = expand_columns(registry.evaluations.get(function.__name__).columns, {"eps": [0.02]}, columns)
    assert list(facts) == list(columns)
    runs = [f for f in facts.values() if f.role == "repeat"]
    assert [(f.params["kind"], f.params["run"]) for f in runs] == [
        *(("apgd-ce", run) for run in range(2)), *(("apgd-t", run) for run in range(2)), ("fab-t", 0),
        *(("square", run) for run in range(2)),
    ]  # fmt: skip
    assert {(f.params["norm"], f.params["eps"]) for f in runs} == {(function.__name__.removeprefix("repeat_"), 0.02)}
    assert all(f.board is None for f in facts.values()), "it never stands on the board"
