"""Every assertion is made, and each one fails where its constant is wrong: on functions that attain it."""

import dataclasses
import re

import pytest
import torch
from torch import nn

from bench.attacks.pgd import pgd
from bench.evaluations.bounds import bounds
from bench.evaluations.certificate import certificate
from bench.models.layers import CenteredSoftplus, Softplus
from bench.numerics.autograd_graph import record_activations
from bench.numerics.bounds import jacobian_checks, segment_checks
from bench.numerics.bounds.check import BoundCheck
from bench.numerics.bounds.image_checks import check_activations, check_softmax
from bench.numerics.derivatives import expand
from bench.numerics.inequalities import segment_inequalities
from bench.numerics.layer_bounds import LayerwiseHessian
from bench.numerics.lipschitz import LipschitzGraph
from bench.numerics.model_precision import differentiable_eval
from bench.numerics.segments import SegmentGrids, trace_segments

SHARP = {"gradient_integral", "gradient_supremum", "growth", "loss_integral", "loss_supremum", "remainder_integral",
         "remainder_supremum"}  # fmt: skip
PRINTED = {"gradient_printed", "loss_printed"}
LAYERS = {f"{what}, {u}" for what in ("split by layer", "layer bound") for u in ("top eigenvector", "random vector")}
SOFTMAX = {"‖H_z‖ ≤ √2‖p − e_y‖", "‖H_z‖ ≤ 1/2", "‖H_z‖ ≤ 2(1 − p_y)"}
DATA_FREE = {"‖J‖ ≤ L", "‖∇²f‖ ≤ L²/2 + √2B", "‖∇²f‖ ≤ (√2L² + B)‖p − e_y‖"}
AT_IMAGE = {f"‖Σq_k∇²z_k‖ ≤ {c}‖q‖" for c in ("c", "c(x)")}
IN_A_STEP = {f"‖ΔJᵀq‖ ≤ {c}‖ε‖‖q‖" for c in ("c", "c(x)")}
ACTIVATION = {"s' ≥ 0", "s' ≤ 1", "s'' ≥ 0", "s'' ≤ β/4", "s'' = β(1 − s')s'", "s0 ≤ ReLU", "s0 ≥ ReLU − log 2/β"}
SELF_CHECK = "gradient against integrated Hessian"


@pytest.fixture
def recorded(monkeypatch):
    """Every claim that was recorded, without ε0 and radius, and whether it was found violated anywhere."""
    found: dict[str, bool] = {}
    record = BoundCheck.record

    def note(self, name, image, claim, decided=None):
        short = re.sub(r" \(ε0 = .*", "", name)
        sure = claim.violated if decided is None else claim.violated & decided
        found[short] = found.get(short, False) or bool(sure.any())
        record(self, name, image, claim, decided)

    monkeypatch.setattr(BoundCheck, "record", note)
    return found


def violated(recorded):
    return {name for name, bad in recorded.items() if bad}


def confident(slope=60.0, shift=-20.0):
    """Return a linear model whose loss at label 0 is log(1 + e^u) ≈ e^u, u = slope·x₁ + shift: C_f is constant."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-slope / 2, 0, 0, 0], [slope / 2, 0, 0, 0]]))
        model[1].bias.copy_(torch.tensor([-shift / 2, shift / 2]))
    return model


def single_unit(beta=50.0, size=0.01):
    """Return a net of one unit at its bend, whose label is certainly wrong: the layer bounds are attained there."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), CenteredSoftplus(beta), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 1.0]]))
        model[1].bias.zero_()
        model[3].weight.copy_(torch.tensor([[size], [-size]]))
        model[3].bias.copy_(torch.tensor([-10.0, 10.0]))
    return model


ZERO, LABEL = torch.zeros(1, 1, 2, 2), torch.zeros(1, dtype=torch.long)


def test_no_assertion_is_left_out(lcnn, images, recorded):
    bounds(lcnn, *images, radius=[0.01])
    expected = SHARP | PRINTED | LAYERS | SOFTMAX | DATA_FREE | AT_IMAGE | IN_A_STEP | {SELF_CHECK}
    expected |= {f"activation: {a}" for a in ACTIVATION}
    assert set(recorded) == expected
    assert violated(recorded) == set()


def test_half_the_curvature_along_a_segment(monkeypatch, recorded):
    whole = segment_checks.loss_to_second_order
    assert (bounds(confident(), ZERO, LABEL, radius=[0.1])["bound_violations"] == 0).all()

    def half(*arguments):
        loss, gradient, product = whole(*arguments)
        return loss, gradient, 0.5 * product

    monkeypatch.setattr(segment_checks, "loss_to_second_order", half)
    monkeypatch.setattr("bench.numerics.segments.QUADRATURE", 10.0)  # else the self-check leaves it undecided
    bounds(confident(), ZERO, LABEL, radius=[0.1])
    assert violated(recorded) >= SHARP | PRINTED


def test_the_smaller_end_of_every_interval(monkeypatch):
    # C = 2u/(1 + u²)-like curvature that changes along the way: min for max is a lower sum, and no bound
    def oracle(points, segment):
        u = points[:, :1]
        value = (u + u**3 / 3).squeeze(1)
        return value, 1 + u**2, 2 * u

    start, direction = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    grids = trace_segments(oracle, start, direction, torch.tensor([0.9], dtype=torch.float64))
    names = ("gradient_integral", "growth", "loss_integral", "remainder_integral")
    honest = segment_inequalities(grids, 0.0)
    assert not any(bool(honest[n].violated) for n in names)
    upper = SegmentGrids.upper

    def lower(self, eps0):
        c, k = self.curvature(eps0), self.inner
        return torch.minimum(c[k], c[k + 1]) * self.length()

    monkeypatch.setattr(SegmentGrids, "upper", lower)
    assert (lower(grids, 0.0) < upper(grids, 0.0)).all()
    assert all(bool(segment_inequalities(grids, 0.0)[n].violated) for n in names)


def test_a_hessian_half_as_large_again_passes_the_bounds_and_fails_the_self_check(monkeypatch, recorded):
    whole = segment_checks.loss_to_second_order

    def larger(*arguments):
        loss, gradient, product = whole(*arguments)
        return loss, gradient, 1.5 * product

    monkeypatch.setattr(segment_checks, "loss_to_second_order", larger)
    table = bounds(confident(), ZERO, LABEL, radius=[0.1], max_nodes=33)
    assert (table["bounds_undecided"] >= 1).all()
    assert not violated(recorded) & (SHARP | PRINTED)


@pytest.mark.parametrize("planted", ["nothing", "d", "L", "B"])
def test_constants_of_the_layer_bounds(planted, monkeypatch, recorded):
    of, data_free = LayerwiseHessian.of, LayerwiseHessian.data_free
    if planted == "d":
        monkeypatch.setattr(
            LayerwiseHessian,
            "of",
            lambda *a: dataclasses.replace(whole := of(*a), weights=[0.9 * d for d in whole.weights]),
        )
        expected = LAYERS
    elif planted == "L":
        monkeypatch.setattr(
            LayerwiseHessian, "data_free", lambda self, g: (0.9 * data_free(self, g)[0], data_free(self, g)[1])
        )
        expected = DATA_FREE
    elif planted == "B":
        monkeypatch.setattr(
            LayerwiseHessian, "data_free", lambda self, g: (data_free(self, g)[0], 0.9 * data_free(self, g)[1])
        )
        expected = DATA_FREE - {"‖J‖ ≤ L"}
    else:
        expected = set()
    bounds(single_unit(), ZERO, LABEL, radius=[0.001])
    for shift in (0.0, -20.0):  # the loss's own curvature: ½L² is attained at p = ½, √2L²‖q‖ at p → 1
        bounds(confident(3.0, shift), ZERO, LABEL, radius=[0.001])
    assert violated(recorded) == expected


@pytest.mark.parametrize("planted", ["nothing", "constants", "slopes"])
def test_constants_of_the_jacobian(planted, monkeypatch, recorded):
    composed, slopes = LipschitzGraph.jacobian_from_input, jacobian_checks.slopes_at_images
    if planted == "constants":
        monkeypatch.setattr(
            LipschitzGraph, "jacobian_from_input", lambda *a: {n: 0.9 * c for n, c in composed(*a).items()}
        )
    elif planted == "slopes":
        monkeypatch.setattr(
            jacobian_checks, "slopes_at_images", lambda *a: [{n: 0.9 * r for n, r in one.items()} for one in slopes(*a)]
        )
    table = bounds(single_unit(), ZERO, LABEL, radius=[0.001])
    found = violated(recorded)
    anchored = {claim for claim in AT_IMAGE | IN_A_STEP if "c(x)" in claim}
    assert found == {"nothing": set(), "constants": AT_IMAGE | IN_A_STEP, "slopes": anchored}[planted]
    if planted == "nothing":
        assert float(table["tightness_jacobian_anchored"]) == pytest.approx(1, rel=1e-6)


class Growing(nn.Module):
    """f(x) = s0(s0(x − m; 1) − 0.4 (x − m) + b; β): the slope of its inner part grows eightfold in one step."""

    def __init__(self, beta: float, start: float, below: float) -> None:
        super().__init__()
        self.inner, self.outer = CenteredSoftplus(1.0, learn_beta=False), CenteredSoftplus(beta, learn_beta=False)
        self.last = nn.Linear(1, 2)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[0.001], [-0.001]]))
            self.last.bias.copy_(torch.tensor([10.0, -10.0]))
            u = torch.tensor(start)
            self.shift = float(0.4 * u - self.inner(u)) - below / beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = x.flatten(1)
        return self.last(self.outer(self.inner(u) - 0.4 * u + self.shift))


@pytest.mark.parametrize("wrong", [False, True])
def test_an_anchor_in_place_of_both_constants_holds_at_the_image_and_fails_in_a_step(wrong, monkeypatch, recorded):
    """Only one of the two factors L may be the slope at the image: (β/4)R² instead of (β/4)LR is no bound."""
    slopes = jacobian_checks.slopes_at_images

    def both(graph, activations, x):
        gains = graph.from_input()
        inner = {n: a.source and gains[a.source] for n, a in graph.softplus_nodes.items()}
        return [
            {n: r * r / inner[n] if inner[n] else r for n, r in one.items()} for one in slopes(graph, activations, x)
        ]

    if wrong:
        monkeypatch.setattr(jacobian_checks, "slopes_at_images", both)
    model = Growing(beta=155.0, start=-0.323, below=5.0)
    bounds(model, torch.full((1, 1, 1, 1), -0.323), torch.ones(1, dtype=torch.long), radius=[0.646])
    assert violated(recorded) == ({"‖ΔJᵀq‖ ≤ c(x)‖ε‖‖q‖"} if wrong else set())


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_constants_of_the_softmax(factor, recorded):
    logits = torch.tensor([[12.0, 0.0, -40.0], [0.0, 0.0, -40.0]])[..., None, None]
    model, y = nn.Flatten(), torch.zeros(2, dtype=torch.long)
    at = expand(model, logits.double(), y)
    norm = factor * LayerwiseHessian.of(at, y, []).softmax_norm()
    check_softmax(norm, at, y, BoundCheck.empty(y))
    assert set(recorded) == SOFTMAX
    assert violated(recorded) == (SOFTMAX if factor > 1 else set())


class Scaled(CenteredSoftplus):
    """An activation that is none of the paper's."""

    factor = 1.0

    def forward(self, x):
        return self.factor * super().forward(x)


PLANTED = {
    "s' ≥ 0": lambda layers: [s.sub_(0.1) for s in layers.first_derivatives],
    "s' ≤ 1": lambda layers: [s.add_(0.1) for s in layers.first_derivatives],
    "s'' ≥ 0": lambda layers: [c.sub_(0.1) for c in layers.second_derivatives],
    "s'' ≤ β/4": lambda layers: [c.mul_(1.1) for c in layers.second_derivatives],
    "s'' = β(1 − s')s'": lambda layers: [c.mul_(0.99) for c in layers.second_derivatives],
    "s0 ≤ ReLU": lambda layers: setattr(layers.activations[0].module, "factor", 1.1),
    "s0 ≥ ReLU − log 2/β": lambda layers: setattr(layers.activations[0].module, "factor", 0.9),
}


@pytest.mark.parametrize("fact", PLANTED)
def test_facts_of_the_activations(fact, recorded):
    assert set(PLANTED) == ACTIVATION
    x, y = torch.linspace(-3, 3, 61, dtype=torch.float64).view(1, 61, 1, 1), LABEL
    with (
        differentiable_eval(nn.Sequential(Scaled(4.0), nn.Flatten()), "float64") as ready,
        record_activations(ready) as calls,
    ):
        layers = LayerwiseHessian.of(expand(ready, x, y), y, calls.activations)
        check_activations(layers, BoundCheck.empty(y))
        assert len(recorded) == 7
        assert not violated(recorded)
        PLANTED[fact](layers)
        check_activations(layers, BoundCheck.empty(y))
    assert f"activation: {fact}" in violated(recorded)


@pytest.mark.parametrize("beta", [3.713, 0.1, 10.0, 1e3])
@pytest.mark.parametrize("module", [Softplus, nn.Softplus, CenteredSoftplus])
def test_facts_of_the_activations_hold_with_a_beta_that_float32_does_not_have(module, beta, recorded):
    """An activation whose β is a Python number computes with that number, not with the nearest float32."""
    x, y = torch.linspace(-90, 90, 181, dtype=torch.float64).view(1, 181, 1, 1), LABEL
    model = nn.Sequential(module(beta), nn.Flatten())
    with differentiable_eval(model, "float64") as ready, record_activations(ready) as calls:
        layers = LayerwiseHessian.of(expand(ready, x, y), y, calls.activations)
        check_activations(layers, BoundCheck.empty(y))
    assert len(recorded) == 7
    assert not violated(recorded)


@pytest.mark.parametrize("column", ["certified_radius", "certified_radius_lipschitz"])
def test_the_certificate_is_attained_so_that_one_percent_more_is_broken(column, monkeypatch):
    # Two opposite rows: both radii are the exact distance to the boundary
    model, x, y = confident(4.0, -0.5), torch.full((1, 1, 2, 2), 0.05), LABEL
    radius = float(certificate(model, x, y)[column][0])
    assert radius > 0.01
    for share, label in ((0.99, 0), (1.01, 1)):
        adversarial = pgd(model, x, y, eps=share * radius)
        assert int(model(adversarial).argmax()) == label
    into = LipschitzGraph.from_input
    monkeypatch.setattr(LipschitzGraph, "from_input", lambda *a: {node: v / 2 for node, v in into(*a).items()})
    wrong = float(certificate(model, x, y)[column][0])
    assert wrong == pytest.approx(2 * radius, rel=1e-6)
    assert int(model(pgd(model, x, y, eps=0.99 * wrong)).argmax()) == 1


@pytest.mark.parametrize("planted", [1.0, 0.5])
def test_the_curvature_certificate_is_attained_so_that_half_its_constant_is_broken(planted, monkeypatch):
    # The margin 0.056 − s0(x₁ − 0.2) falls along x₁ as its second-order model does, up to (βr)²/100 of itself
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), CenteredSoftplus(5.0, learn_beta=False), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0]]))
        model[1].bias.fill_(-0.2)
        model[3].weight.copy_(torch.tensor([[-0.5], [0.5]]))
        model[3].bias.copy_(torch.tensor([0.028, -0.028]))
    constants = LipschitzGraph.jacobian_from_input
    monkeypatch.setattr(
        LipschitzGraph, "jacobian_from_input", lambda *a: {node: planted * c for node, c in constants(*a).items()}
    )
    x = torch.full((1, 1, 2, 2), 0.2)
    table = certificate(model, x, LABEL)
    radius = float(table["certified_radius_curvature"][0])
    assert radius > 1.5 * float(table["certified_radius_lipschitz"][0])
    labels = []
    for share in (0.99, 1.01):
        moved = x.clone()
        moved[0, 0, 0, 0] += share * radius
        labels.append(int(model(moved).argmax()))
    assert labels == ([0, 1] if planted == 1 else [1, 1])
