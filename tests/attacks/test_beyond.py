"""What stands around the standard attacks: the author's own attack, the audit, the two stages, transfer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bench.attacks.autoattack import autoattack
from bench.attacks.core.adaptive import adaptive
from bench.attacks.peers import pyautoattack
from bench.core import registry
from bench.core.errors import BenchError
from bench.core.records import Adaptive
from bench.evaluations.audit import audit_l2
from bench.evaluations.transfer import describe_transfer, transfer_columns, transfer_l2
from bench.measuring.inputs import BatchInputs
from bench.measuring.passes import counted
from tests.attacks.known import Linear, flags
from tests.attacks.test_closed_form import exact_distance, middle, problem

FEW = {"steps": 10, "n_queries": 5, "n_target_classes": 2}


class Stairs(nn.Module):
    """A linear model behind pixels rounded to 64 levels: no gradient passes, an author's surrogate would skip it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 64).round() / 64)


@pytest.fixture
def stairs():
    model, x, y = problem(4, 25, box=False, n=20)
    x = x.reshape(-1, 1, 5, 5)
    hidden = Stairs(model)
    eps = 3 * middle(exact_distance(model, x, y, "l2", box=False))
    return hidden, x, hidden(x).argmax(1), eps


def test_the_authors_own_attack_is_run_beside_the_standard_ones(stairs):
    model, x, y, eps = stairs
    evaluate = registry.evaluations.get("autoattack_l2").function
    alone = evaluate(model, x, y, eps=[eps], **FEW)[f"autoattack_l2_{eps:g}_robust"]
    assert alone.sum() > 10, "masked gradients look robust"
    columns = evaluate(model, x, y, eps=[eps], adaptive=Adaptive(surrogate=lambda m: m.model), **FEW)
    robust = columns[f"autoattack_l2_{eps:g}_robust"]
    assert robust.sum() < 3
    assert not (robust & ~alone).any(), "the worst case of both"
    stages = columns[f"autoattack_l2_{eps:g}_broken_by"]
    assert stages.count("adaptive") == int(alone.sum() - robust.sum())
    assert not columns[f"autoattack_l2_{eps:g}_refused"].any()


@pytest.mark.parametrize("apart", [True, False])
def test_passes_of_a_surrogate_count_once(stairs, apart):
    """Whether it is a network of its own or calls the defended one: the images that its forward saw."""

    class Straight(nn.Module):
        seen = 0

        def __init__(self, model):
            super().__init__()
            self.inner = model.model if apart else model

        def forward(self, x):
            Straight.seen += len(x)
            return self.inner(x)

    model, x, y, eps = stairs
    own = []
    model.register_forward_pre_hook(lambda module, inputs: own.append(len(inputs[0])))
    with counted(model) as passes:
        adaptive(model, x, y, eps=eps, norm="l2", seed=0, declaration=Adaptive(surrogate=Straight))
    assert passes.forwards == sum(own) + (Straight.seen if apart else 0)
    assert min(Straight.seen, sum(own)) > 0
    assert passes.backwards == Straight.seen


def test_a_declared_loss_and_draws_are_used(stairs):
    model, x, y, eps = stairs
    calls = []

    def loss(logits, label):
        calls.append(len(label))
        return -logits.gather(1, label[:, None])[:, 0]

    declared = Adaptive(surrogate=lambda m: m.model, loss=loss, eot=3)
    registry.evaluations.get("autoattack_l2").function(model, x, y, eps=[eps], adaptive=declared, **FEW)
    assert len(calls) % 3 == 0
    assert len(calls) > 0


def test_a_peer_runs_without_the_declaration(stairs):
    model, x, y, eps = stairs
    declared = Adaptive(surrogate=lambda m: pytest.fail("a library knows nothing of declarations"))
    evaluate = registry.evaluations.get("autoattack_l2").function
    columns = evaluate(model, x[:4], y[:4], eps=[eps], peer="pyautoattack", n_queries=5, adaptive=declared)
    assert f"autoattack_l2_pyautoattack_{eps:g}_robust" in columns


def test_the_audit_lists_both_kinds_of_disagreement(monkeypatch):
    model, x, y = problem(4, 36, box=False, n=6)
    x = x.reshape(-1, 1, 6, 6)
    eps = round(1.5 * float(exact_distance(model, x, y, "l2", box=False).max()), 1)
    ours, official = x.clone(), x.clone()
    strong = autoattack(model, x, y, eps=eps, steps=20, n_queries=5)
    assert not flags(model, strong, y).any()
    ours[:2], official[1:4] = strong[:2], strong[1:4]
    by_content = {"ours": ours, "official": official}

    def fixed(which):
        return lambda model, part, label, **rest: by_content[which][: len(part)]

    monkeypatch.setattr("bench.evaluations.audit.autoattack", fixed("ours"))
    monkeypatch.setattr(pyautoattack, "autoattack", fixed("official"))
    columns = audit_l2(model, x, y, eps=[eps])
    assert columns[f"audit_l2_{eps:g}_missed"].tolist() == [False, False, True, True, False, False]
    assert columns[f"audit_l2_{eps:g}_gained"].tolist() == [True, False, False, False, False, False]
    declared = {pattern.replace("{eps}", f"{eps:g}") for pattern in registry.evaluations.get("audit_l2").columns}
    assert set(columns) == declared


def test_the_audit_finds_no_disagreement_on_a_linear_model():
    model, x, y = problem(2, 25, box=False, n=4)
    x = x.reshape(-1, 1, 5, 5)
    eps = 0.9 * middle(exact_distance(model, x, y, "l2", box=False))  # nothing on the verge
    columns = audit_l2(model, x, y, eps=[eps])
    assert not columns[f"audit_l2_{eps:g}_missed"].any()
    assert not columns[f"audit_l2_{eps:g}_gained"].any()
    assert columns[f"audit_l2_{eps:g}_ours"].tolist() == columns[f"audit_l2_{eps:g}_official"].tolist()


def test_transferred_examples_are_judged_like_any_other():
    model = Linear(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-0.5, 0.5]))
    x = torch.tensor([[0.6, 0.0], [0.6, 0.0], [0.9, 0.0], [0.1, 0.0]]).view(-1, 1, 1, 2)
    y = torch.zeros(4, dtype=torch.long)
    shift = torch.tensor([[-0.15, 0.0], [0.0, 0.0], [-0.6, 0.0], [0.0, 0.0]]).view(-1, 1, 1, 2)
    columns = transfer_columns(
        model,
        x,
        y,
        candidates={"b": x + shift, "a": x + F.pad(shift[:1], (0, 0, 0, 0, 0, 0, 0, 3))},
        eps=0.2,
        norm="l2",
    )
    assert columns["transfer_l2_0.2_robust"].tolist() == [False, True, True, False], "the third leaves the ball"
    assert columns["transfer_l2_0.2_broken_by"] == ["a", "", "", "clean"]
    robust = torch.tensor([True, True, False, True])
    inputs = BatchInputs(own={"robust": robust}, others={"adversarial": {"b": x + shift}})
    whole = transfer_l2(model, x, y, inputs=inputs, eps=[0.2])
    assert whole["best_known_l2_0.2_robust"].tolist() == [False, True, False, False]
    assert set(whole) == {pattern.replace("{eps}", "0.2") for pattern in describe_transfer("l2")}
    with pytest.raises(BenchError, match="expected finite adversarial images"):
        transfer_columns(model, x, y, candidates={"a": x * torch.nan}, eps=0.2, norm="l2")
