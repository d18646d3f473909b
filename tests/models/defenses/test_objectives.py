"""Every training objective against a hand-computed value, its gradient against complex-step differences.

The hand computation is plain numpy: z = W₁x + b, a = s0(z; β), logits = W₂a. All of it is analytic, so the imaginary
part of f(θ + ih)/h at h = 1e-30 is the exact derivative, free of cancellation.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.core.registry import defenses
from bench.models.defenses import adversarial_training, cure, gradreg, lcnn, lcnn_gradreg
from bench.models.layers import CenteredSoftplus, LipschitzBatchNorm2d
from bench.training.losses import bound_loss

B, D, HIDDEN, K = 5, 4, 6, 3


class Tiny(nn.Module):
    """A small smooth float64 network of images (B, 1, 2, 2)."""

    NAMES = ("first.weight", "first.bias", "act.log_beta", "last.weight")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(D, HIDDEN), CenteredSoftplus(3.0), nn.Linear(HIDDEN, K, bias=False)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.first(x.flatten(1))))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images inside [0.2, 0.8], away from the box, and labels."""
    generator = torch.Generator().manual_seed(1)
    x = 0.2 + 0.6 * torch.rand(B, 1, 2, 2, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 1, 0])


def parameters(model: nn.Module) -> list[np.ndarray]:
    """Return W₁, b, log β, W₂ as complex arrays."""
    named = dict(model.named_parameters())
    return [named[n].detach().numpy().astype(complex) for n in Tiny.NAMES]


class ByHand:
    """The same network in numpy, complex arguments allowed."""

    def __init__(self, theta: list[np.ndarray]) -> None:
        self.w1, self.b, log_beta, self.w2 = theta
        self.beta = np.exp(log_beta) + 1e-3

    def forward(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return losses (B,) and their input gradients (B, D)."""
        z = x @ self.w1.T + self.b
        a = np.log((1 + np.exp(self.beta * z)) / 2) / self.beta
        logits = a @ self.w2.T
        exponentials = np.exp(logits)
        p = exponentials / exponentials.sum(1, keepdims=True)
        losses = np.log(exponentials.sum(1)) - logits[np.arange(len(y)), y]
        q = p - np.eye(logits.shape[1])[y]
        slope = 1 / (1 + np.exp(-self.beta * z))
        return losses, ((q @ self.w2) * slope) @ self.w1


def squares(g: np.ndarray) -> np.ndarray:
    """Return Σ g² per row, analytic (no conjugate)."""
    return (g * g).sum(1)


def by_hand(name: str, hp: dict, theta: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> complex:
    """Return the objective of a defense, written out from its definition."""
    net = ByHand(theta)
    losses, g = net.forward(x, y)
    total = losses.mean()
    if name in ("gradreg", "lcnn_gradreg"):
        total = total + hp["lambda_gradient"] * squares(g).mean()
    if name in ("lcnn", "lcnn_gradreg"):
        total = total + hp["lambda_beta"] * (net.beta - 1e-3)
    if name == "cure":
        sign = np.sign(g.real)
        z = sign / np.sqrt((sign**2).sum(1, keepdims=True))
        h = hp["h"]
        moved = squares(net.forward(x + h * z, y)[1] - g)
        reference = hp["variant"] == "reference"
        total = total + hp["lambda_curvature"] * (np.sqrt(moved) if reference else moved).mean()
    return total


def complex_step(name: str, hp: dict, theta: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return the exact gradient of `by_hand` in every parameter."""
    found = []
    for k, parameter in enumerate(theta):
        gradient = np.zeros(parameter.shape)
        for index in np.ndindex(parameter.shape):
            moved = [p.copy() for p in theta]
            moved[k][index] += 1e-30j
            gradient[index] = np.imag(by_hand(name, hp, moved, x, y)) / 1e-30
        found.append(gradient)
    return found


CASES = [
    ("standard", {}),
    ("vanilla", {}),
    ("softplus_wd", {}),
    ("lcnn", {}),
    ("lcnn", {"lambda_beta": 0.3, "lambda_gamma": 0.7}),
    ("gradreg", {}),
    ("gradreg", {"lambda_gradient": 2.0}),
    ("lcnn_gradreg", {"lambda_gradient": 2.0, "lambda_beta": 0.3}),
    ("cure", {"lambda_curvature": 1 / 128**2, "h": 1.0}),
    ("cure", {"lambda_curvature": 3.0, "h": 0.4}),
    ("cure", {"variant": "reference", "lambda_curvature": 4.0, "h": 0.8}),
]


@pytest.mark.parametrize(("name", "changed"), CASES)
def test_value_and_parameter_gradient(name, changed):
    entry = defenses.get(name)
    hp = {**entry.hyperparameters, **changed}
    model, (x, y) = Tiny(), batch()
    if name == "cure":
        model.step_length = cure.StepLength((hp["h"],))
    terms = bound_loss(entry.recipe.loss, hp)(model, x, y)
    total = sum(terms.values())
    theta, images, labels = parameters(model), x.flatten(1).numpy(), y.numpy()
    assert total.item() == pytest.approx(by_hand(name, hp, theta, images, labels).real, rel=1e-12)
    total.backward()
    named = dict(model.named_parameters())
    for key, want in zip(Tiny.NAMES, complex_step(name, hp, theta, images, labels), strict=True):
        np.testing.assert_allclose(named[key].grad.numpy(), want, rtol=1e-9, atol=1e-13)


def test_defaults_are_the_decided_constants():
    hp = {entry.name: entry.hyperparameters for entry in defenses}
    assert hp["gradreg"]["lambda_gradient"] == pytest.approx(1e-3 * 1e5 / 128**2)
    for name in ("lcnn", "lcnn_gradreg"):
        assert (hp[name]["lambda_beta"], hp[name]["lambda_gamma"]) == (1e-3, 1e-3)
    assert (hp["lcnn"]["beta0"], hp["lcnn"]["gamma0"]) == (5, 10)
    assert hp["softplus_wd"]["beta"] == 10
    assert (hp["adversarial_training"]["eps"], hp["adversarial_training"]["steps"]) == (0.1, 3)
    assert hp["cure"]["variant"] == "table1"


@pytest.mark.parametrize(("variant", "constant"), [("table1", 1e-3 * 1e3 / 128**2), ("reference", 4.0)])
def test_each_variant_of_cure_has_its_own_constant(variant, constant):
    model, (x, y) = Tiny(), batch()
    model.step_length = cure.StepLength((1.0,))
    own = cure.loss(model, x, y, variant=variant, lambda_curvature=None)
    given = cure.loss(model, x, y, variant=variant, lambda_curvature=constant)
    assert own["curvature"].item() == pytest.approx(given["curvature"].item(), rel=1e-12)


def test_gradient_penalty_has_the_authors_value_at_their_batch_size():
    # Theirs: 1e-3 · 1e5/B · Σ_i ‖∂(mean loss)/∂x_i‖² with B = 128.
    model = Tiny()
    x, y = torch.rand(128, 1, 2, 2, dtype=torch.float64, requires_grad=True), torch.arange(128) % K
    (g,) = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), x)
    theirs = 1e-3 * 1e5 / 128 * g.square().sum()
    ours = gradreg.loss(model, x, y, lambda_gradient=gradreg.AUTHORS_LAMBDA)["gradient"]
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)


def test_gradient_penalty_does_not_depend_on_the_batch_size():
    model, (x, y) = Tiny(), batch()
    once = gradreg.loss(model, x, y, lambda_gradient=1.0)
    twice = gradreg.loss(model, x.repeat(2, 1, 1, 1), y.repeat(2), lambda_gradient=1.0)
    for key in once:
        assert once[key].item() == pytest.approx(twice[key].item(), rel=1e-12)


def test_hessian_vector_product_of_the_gradient_penalty():
    model, (x, y) = Tiny(), batch()
    weights = list(model.parameters())
    directions = [torch.randn_like(w) for w in weights]

    def gradients(create_graph=False):
        total = sum(lcnn_gradreg.loss(model, x, y, lambda_beta=0.1, lambda_gamma=0.1, lambda_gradient=2.0).values())
        return torch.autograd.grad(total, weights, create_graph=create_graph)

    inner = sum((g * d).sum() for g, d in zip(gradients(True), directions, strict=True))
    product = torch.autograd.grad(inner, weights)
    ends = []
    for h in (1e-5, -2e-5):
        with torch.no_grad():
            for w, d in zip(weights, directions, strict=True):
                w.add_(d, alpha=h)
        ends.append(gradients())
    for got, up, down in zip(product, *ends, strict=True):
        torch.testing.assert_close(got, (up - down) / 2e-5, rtol=1e-6, atol=1e-8)


def test_curvature_penalty_counts_every_gamma_in_absolute_value():
    model = nn.Sequential(LipschitzBatchNorm2d(2, 0.25), LipschitzBatchNorm2d(2, 8.0), CenteredSoftplus(3.0)).double()
    terms = lcnn.curvature_penalty(model, 0.1, 0.01)
    assert terms["beta"].item() == pytest.approx(0.3, rel=1e-6)
    assert terms["gamma"].item() == pytest.approx(0.01 * np.log(32), rel=1e-6)
    assert lcnn.curvature_penalty(nn.ReLU(), 1.0, 1.0) == {}


def test_cross_entropy_terms_are_labelled():
    model, (x, y) = Tiny(), batch()
    assert set(lcnn.loss(model, x, y, lambda_beta=1.0, lambda_gamma=1.0)) == {"cross_entropy", "beta"}
    assert set(gradreg.loss(model, x, y, lambda_gradient=1.0)) == {"cross_entropy", "gradient"}
    terms = adversarial_training.loss(model, x, y, eps=0.1, norm="l2", steps=1, step_size=None, released=False)
    assert set(terms) == {"adversarial_cross_entropy"}
