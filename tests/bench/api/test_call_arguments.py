"""The Python calls check what the command line checks, before anything is computed."""

import json

import numpy as np
import pytest
import torch

import bench
from bench.attacks.autoattack import autoattack
from bench.attacks.fab import fab
from bench.attacks.pgd import pgd
from bench.attacks.square import square
from bench.core.errors import UsageError
from bench.evaluations.robustness import peer_attack

REFUSED = [
    ({"batch_size": -1}, "batch_size: expected a whole number from 1 up, got -1"),
    ({"batch_size": 0}, "batch_size: expected a whole number from 1 up, got 0"),
    ({"batch_size": 2.5}, "batch_size: expected a whole number from 1 up, got 2.5"),
    ({"limit": -1}, "limit: expected a whole number from 1 up, got -1"),
    ({"limit": 0}, "limit: expected a whole number from 1 up, got 0"),
    ({"limit": "3"}, "limit: expected a whole number from 1 up, got '3'"),
    ({"seed": None}, "seed: expected a whole number from 0 up, got None"),
    ({"seed": -3}, "seed: expected a whole number from 0 up, got -3"),
    ({"seed": 2**70}, "seed: expected a whole number from 0 up, got 1180591620717411303424"),
    ({"device": "gpu"}, "device: expected auto, cpu, cuda or cuda:i, got 'gpu'"),
    ({"eps": -0.1}, r"eps: expected every eps between 0 and 6 \(pixels are in \[0, 1\]\), got -0.1"),
    ({"eps": float("nan")}, "eps: expected a finite number, got nan"),
    ({"eps": "8/0"}, "eps: expected a finite number, got '8/0'"),
    ({"eps": True}, "eps: expected a finite number, got True"),
    ({"eps": []}, "eps: expected at least one eps, got none"),
    ({"eps": [0.1, None]}, "eps: expected a finite number, got None"),
    ({"eps": 7}, r"eps: expected every eps between 0 and 6 .* got 7\."),
    ({"eps": [1 / 3, 0.333333]}, "expected numbers that differ in their first six digits.* 0.333333 and 0.33333333333"),
    ({"evaluations": []}, "expected at least one evaluation, got none"),
    ({"evaluations": "accurracy"}, "Did you mean 'accuracy'"),
    ({"suite": "digits"}, "expected either suite= or data="),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=lambda v: str(v)[:30])
def test_evaluate_refuses_in_one_line(arguments, words, net, data):
    def forward(x):
        pytest.fail("the model was called first")

    net.forward = forward
    with pytest.raises(UsageError, match=words) as caught:
        bench.evaluate(net, **{"data": data, "evaluations": ["pgd_l2"], **arguments})
    assert "\n" not in str(caught.value)


PLAIN = {"batch_size": 3, "limit": 8, "seed": 0, "device": "cpu"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": np.int64(3), "limit": np.uint8(8), "seed": np.int32(0)},
        {"batch_size": torch.tensor(3), "limit": torch.tensor(8), "seed": torch.tensor(0)},
        {"batch_size": 3.0, "limit": 8.0},
        {"device": torch.device("cpu")},
        {"device": "auto"} if not torch.cuda.is_available() else {},
    ],
    ids=str,
)
def test_evaluate_accepts_what_is_meant(arguments, net, data):
    common = {"data": data, "evaluations": ["pgd_l2"], "eps": 0.3, **PLAIN}
    assert bench.evaluate(net, **{**common, **arguments}).equals(bench.evaluate(net, **common))


@pytest.mark.parametrize(
    "eps", [0.25, "1/4", "0.25", np.float32(0.25), np.array([0.25]), torch.tensor(0.25), [np.float64(0.25)], ("1/4",)]
)
def test_budgets_of_any_type(eps, net, data):
    table = bench.evaluate(net, data=data, evaluations=["pgd_l2"], eps=eps)
    assert "pgd_l2_0.25_robust" in table


def test_names_of_usual_budgets():
    from bench.measuring.budgets import check_budgets

    found = check_budgets("x", ["8/255", "4/255", 0.03], "linf", (3, 32, 32))
    assert [f"{e:g}" for e in found] == ["0.0156863", "0.03", "0.0313725"]
    with pytest.raises(UsageError, match="first six digits"):
        check_budgets("x", ["8/255", 0.0313725], "linf", (3, 32, 32))


DIRECT = {
    "pgd": lambda *a, **k: pgd(*a, steps=3, **k),
    "fab": lambda *a, **k: fab(*a, steps=3, **k),
    "square": lambda *a, **k: square(*a, n_queries=10, **k),
    "autoattack": lambda *a, **k: autoattack(*a, steps=3, n_queries=10, **k),
}


@pytest.mark.parametrize("name", DIRECT)
def test_an_attack_called_directly_accepts_and_refuses_the_same(name, net, data):
    x, y = data
    attack = DIRECT[name]
    expected = attack(net, x, y, eps=0.25, seed=3)
    for eps, seed in (("1/4", np.int64(3)), (torch.tensor(0.25), torch.tensor(3)), (np.float32(0.25), 3.0)):
        assert torch.equal(attack(net, x, y.to(torch.uint8), eps=eps, seed=seed), expected)
    for arguments, words in [
        ({"eps": "a lot"}, "eps: expected a finite number, got 'a lot'"),
        ({"eps": -1e-6}, "eps: expected a radius ≥ 0, got -1e-06"),
        ({"eps": 0.1, "seed": -1}, "seed: expected a whole number from 0 up, got -1"),
        ({"eps": 0.1, "seed": None}, "seed: expected a whole number from 0 up, got None"),
    ]:
        with pytest.raises(UsageError, match=words):
            attack(net, x, y, **arguments)
    for images, labels, words in [
        (x + 1e-6 + (1 - x.max()), y, r"expected pixels in \[0, 1\], got \[0\.\d+, 1\.0000\d+\]"),
        ((x * 255).byte(), y, "expected images as a floating-point tensor .* got torch.uint8"),
        (x.numpy(), y, "expected images as a floating-point tensor .* got ndarray"),
        (x, y - 5, "expected labels from 0 up, got -5"),
        (x, y.float(), "expected 12 labels as an integer tensor .* got torch.float32"),
        (x, y[:3], r"expected 12 labels as an integer tensor .* got torch.int64 of shape \(3,\)"),
    ]:
        with pytest.raises(UsageError, match=words):
            attack(net, images, labels, eps=0.1)
    with pytest.raises(UsageError, match=r"expected the model to be an nn.Module, got function. Write bench.wrap"):
        attack(lambda x: net(x), x, y, eps=0.1)


@pytest.mark.parametrize("name", DIRECT)
def test_attacks_return_detached_points_and_leave_gradients_alone(name, net, data):
    x, y = data
    x = x.clone().requires_grad_()
    net(x).sum().backward()
    before = [x.grad.clone(), *(p.grad.clone() for p in net.parameters())]
    for eps in (0.0, 0.3):
        found = DIRECT[name](net, x, y, eps=eps)
        assert not found.requires_grad
        assert found.grad_fn is None
        assert found.data_ptr() != x.data_ptr()
    for old, holder in zip(before, [x, *net.parameters()], strict=True):
        assert torch.equal(holder.grad, old)
        assert holder.requires_grad


@pytest.mark.parametrize("library", ["foolbox", "cleverhans", "torchattacks"])
def test_other_libraries_return_detached_points_too(library, net, data):
    pytest.importorskip(library)
    x, y = data
    x = x.clone().requires_grad_()
    with torch.no_grad():
        found = peer_attack("pgd", library)(net, x, y, eps=0.3, steps=3)
    assert not found.requires_grad
    assert x.grad is None
    assert not torch.equal(found, x)


def test_benchmark_checks_its_arguments(net):
    for arguments, words in [
        ({"n_examples": 0}, "n_examples: expected a whole number from 1 up, got 0"),
        ({"eps": "lots"}, "benchmark: eps: expected a finite number"),
        ({"threat_model": "corruptions"}, "expected threat_model L2 or Linf"),
        ({"batch_size": -1}, "batch_size: expected a whole number from 1 up, got -1"),
        ({"device": "gpu"}, "device: expected auto, cpu, cuda or cuda:i, got 'gpu'"),
    ]:
        with pytest.raises(UsageError, match=words):
            bench.benchmark(net, **{"dataset": "digits", "n_examples": 5, **arguments})


def test_load_model_checks_its_seed(tmp_path):
    with pytest.raises(UsageError, match="load_model: seed: expected a whole number from 0 up, got -1"):
        bench.load_model("standard", seed=-1, out=tmp_path)


@pytest.mark.parametrize(
    ("eps", "text"), [(0.2, "0.2"), (8 / 255, "8/255"), (4 / 255, "4/255"), (0.5, "0.5"), (1.0, "1"), (0.4, "0.4"),
                      (128 / 255, "128/255"), (0.6, "0.6"), (1 / 3, "85/255"), (0.1234567, "0.1234567")]
)  # fmt: skip
def test_budgets_in_model_info(eps, text, tmp_path):
    from bench.reports.exports.model_info import write_model_info

    path = write_model_info(tmp_path, "digits", "L2", "mine", 0.9, 0.5, eps)
    assert json.loads(path.read_text())["eps"] == text


def test_counts_round_halves_up():
    from bench.core.stats.intervals import fraction_interval, nearest, wilson

    assert [nearest(v) for v in (0.5, 1.5, 2.5, 2.4999999999, 2.49)] == [1, 2, 3, 3, 2]
    assert fraction_interval(0.25, 10) == wilson(3, 10)  # 2.5 of 10: the mean of 2 and 3 of 10
    assert fraction_interval(0.45, 10) == wilson(5, 10)


def test_two_entries_of_one_evaluation_have_columns_of_their_own(net, tmp_path):
    text = """
name = "twice"
description = "One attack, two lengths."
dataset = "digits"
backbone = "mlp"
seeds = [0]
primary_eps = 0.5
defenses = ["standard"]
[evaluations.pgd_l2]
eps = ["1/2"]
steps = 1
[evaluations.longer]
evaluation = "pgd_l2"
eps = [0.5]
"""
    path = tmp_path / "twice.toml"
    path.write_text(text)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    table = bench.evaluate(model, suite=str(path), limit=20)
    assert {"pgd_l2_0.5_robust", "longer_pgd_l2_0.5_robust"} <= set(table.columns)
    path.write_text(text.replace('["1/2"]', '["1/3", 0.333333]'))
    with pytest.raises(UsageError, match=r"evaluations.pgd_l2.eps: .*first six digits.* got 0.333333 and 0.3333333333"):
        bench.evaluate(model, suite=str(path), limit=20)


@pytest.mark.parametrize("name", DIRECT)
def test_a_label_beyond_the_logits_is_named(name, net, data):
    x, y = data
    with pytest.raises(ValueError, match=r"expected labels below 3, the width of the logits, got 3"):
        DIRECT[name](net, x, y.clamp_max(2).index_fill(0, torch.tensor([1]), 3), eps=0.1)
