"""Curvature against closed forms and dense float64 Hessians."""

import copy

import pytest
import torch
from torch import nn

from bench.attacks.core.randomness import Stream, example_keys, uniform
from bench.core.errors import BenchError, UsageError
from bench.evaluations.curvature import SECOND_SEED_SHARE, curvature
from bench.numerics.model_precision import differentiable_eval


class Quadratic(nn.Module):
    """Two logits (0, −q(x)) with q(x) = b·x + xᵀAx/2 + c: the loss at label 1 is softplus(q)."""

    def __init__(self, a, b, c=0.0):
        super().__init__()
        self.a, self.b, self.c = nn.Parameter(a), nn.Parameter(b), c

    def forward(self, x):
        v = x.flatten(1)
        q = v @ self.b + ((v @ self.a) * v).sum(1) / 2 + self.c
        return torch.stack([torch.zeros_like(q), -q], 1)


def test_a_quadratic_whose_extreme_eigenvalues_cancel():
    # At x = 0 the gradient is σ(c)·b and the Hessian σ(c)(A + (1 − σ(c))bbᵀ); a small b keeps λmin ≈ −λmax.
    torch.manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(16, 16))
    spectrum = torch.tensor([-8.0, 8.0, *torch.linspace(-1, 1, 14).tolist()])
    b = 0.01 * torch.randn(16)
    model = Quadratic(q @ torch.diag(spectrum) @ q.T, b, c=0.3)
    table = curvature(model, torch.zeros(1, 1, 4, 4), torch.tensor([1]), steps=12)
    s = float(torch.tensor(0.3).sigmoid())
    hessian = s * (q @ torch.diag(spectrum) @ q.T + (1 - s) * b.outer(b))
    eigenvalues = torch.linalg.eigvalsh(hessian.double())
    assert float(table["eigenvalue_min"][0]) == pytest.approx(float(eigenvalues[0]), rel=1e-4)
    assert float(table["eigenvalue_max"][0]) == pytest.approx(float(eigenvalues[-1]), rel=1e-4)
    assert float(table["gradient_norm"][0]) == pytest.approx(s * float(b.norm()), rel=1e-5)
    expected = float(eigenvalues.abs().max()) / (s * float(b.norm()))
    assert float(table["curvature"][0]) == pytest.approx(expected, rel=1e-4)
    assert table["hvps"][0] == 12


def test_a_linear_model_has_a_closed_form():
    # f = softplus(w·x): ∇f = σw, ∇²f = σ(1 − σ)wwᵀ, C = (1 − σ)‖w‖; all of it is the loss's own curvature
    w = torch.tensor([1.0, -2.0, 0.5, 3.0])
    model = Quadratic(torch.zeros(4, 4), w)
    x = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    table = curvature(model, x, torch.ones(5, dtype=torch.long))
    s = (x.flatten(1) @ w).sigmoid().double()
    norm = float(w.norm())
    torch.testing.assert_close(table["gradient_norm"], s * norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(table["curvature"], (1 - s) * norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(table["hessian_logit_term"], s * (1 - s) * norm**2, rtol=1e-5, atol=0)
    assert (table["hessian_network_term"] < 1e-6).all()
    assert (table["hvps"] == 4).all()  # no more products than dimensions


def test_against_dense_hessians(model, images, dense):
    x, y = images
    table = curvature(model, x, y, steps=36, precision="float64")
    for i in range(3):
        truth = dense(model, x[i], y[i])
        eigenvalues = torch.linalg.eigvalsh(truth.hessian)
        assert float(table["gradient_norm"][i]) == pytest.approx(float(truth.gradient.norm()), rel=1e-8)
        assert float(table["eigenvalue_min"][i]) == pytest.approx(float(eigenvalues[0]), rel=1e-6, abs=1e-9)
        assert float(table["eigenvalue_max"][i]) == pytest.approx(float(eigenvalues[-1]), rel=1e-6, abs=1e-9)
        assert float(table["hessian_norm"][i]) == pytest.approx(truth.norm(truth.hessian), rel=1e-6)
        assert float(table["hessian_logit_term"][i]) == pytest.approx(truth.norm(truth.logit_term), rel=1e-6)
        assert float(table["hessian_network_term"][i]) == pytest.approx(truth.norm(truth.network_term), rel=1e-6)
    assert table["converged"].all()


def test_ten_products_in_single_precision_reach_one_percent_of_the_mean(lcnn, dense):
    x = torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(16) % 5
    truth = sum(dense.norm(dense(lcnn, a, b).hessian) for a, b in zip(x, y, strict=True)) / 16
    table = curvature(lcnn, x, y)
    assert float(table["hessian_norm"].mean()) == pytest.approx(truth, rel=0.01)
    assert (table["hvps"] == 10).all()


def authors_estimate(model, x, y, u, num_power_iter):
    """Return curvature's top as method.md describes the released script: for each iteration a product, normalised.

    u ← Hu/(‖Hu‖ + 1e-6), num_power_iter times; then |uᵀHu|, with a product of its own.
    """
    for _ in range(num_power_iter):
        product = torch.autograd.functional.hvp(
            lambda image: nn.functional.cross_entropy(model(image), y, reduction="sum"), x, u
        )[1]
        u = product / (product.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-6)
    product = torch.autograd.functional.hvp(
        lambda image: nn.functional.cross_entropy(model(image), y, reduction="sum"), x, u
    )[1]
    return (u * product).flatten(1).sum(1).abs()


@pytest.mark.parametrize("steps", [10, 11, 20])
def test_the_paper_style_estimate_makes_the_eleven_products_of_the_authors_loop(model, images, steps):
    from bench.attacks.core.randomness import normal

    x, y = images
    table = curvature(model, x, y, steps=steps, precision="float64", terms=False)
    with differentiable_eval(model, "float64") as ready:
        start = normal(example_keys(x, 0), Stream.LANCZOS_START, (36,), torch.float64)
        start = (start / start.norm(dim=1, keepdim=True)).view_as(x)
        ten, nine = (authors_estimate(ready, x.double(), y, start, n) for n in (10, 9))
    torch.testing.assert_close(table["hessian_norm_paper"], ten, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(table["curvature_paper"], ten / (table["gradient_norm"] + 1e-6))
    assert ((ten - nine).abs() > 1e-4 * ten).any(), "one product less is another number"
    assert (table["hvps"] == steps).all()


def test_the_extra_product_leaves_the_boards_number_alone(lcnn, images, monkeypatch):
    from bench.evaluations import curvature as module

    x, y = images
    ours = curvature(lcnn, x, y)
    monkeypatch.setattr(module, "PAPER_PRODUCTS", 10)
    without = curvature(lcnn, x, y)
    for name in ("hessian_norm", "hessian_norm_residual", "curvature", "eigenvalue_min", "converged", "hvps"):
        assert torch.equal(ours[name], without[name]), name


def test_too_few_products_leave_the_paper_style_estimate_missing(lcnn, images):
    table = curvature(lcnn, *images, steps=9, terms=False)
    assert table["hessian_norm_paper"].isnan().all()
    assert table["curvature_paper"].isnan().all()
    assert (table["hvps"] == 9).all()


def test_confident_images_keep_their_accuracy(lcnn, images):
    # p_y rounds to 1 in float32: plain cross-entropy would have a gradient of exactly 0
    x, y = images
    sharp = nn.Sequential(lcnn, nn.Linear(5, 5, bias=False))
    with torch.no_grad():
        sharp[1].weight.copy_(80 * torch.eye(5))
    y = sharp(x).argmax(1)
    assert (sharp(x).softmax(1).amax(1) == 1).sum() >= 3
    single, double = curvature(sharp, x, y), curvature(sharp, x, y, precision="float64")
    assert 0 < single["gradient_norm"].min() < 1e-7
    for name in ("gradient_norm", "hessian_norm", "curvature"):
        torch.testing.assert_close(single[name], double[name], rtol=2e-3, atol=0)


def test_a_vanishing_gradient_has_no_curvature(images):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3)

    table = curvature(Constant(), images[0], torch.zeros(6, dtype=torch.long))
    assert table["curvature"].isnan().all()
    assert (table["gradient_norm"] == 0).all()
    assert (table["hessian_norm"] == 0).all()


def test_batch_order_and_size_do_not_matter(lcnn, images):
    x, y = images
    whole = curvature(lcnn, x, y)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    permuted = curvature(lcnn, x[order], y[order])
    alone = curvature(lcnn, x[2:3], y[2:3])
    for name, values in whole.items():
        if values.is_floating_point():
            torch.testing.assert_close(permuted[name], values[order], rtol=1e-3, atol=1e-6, equal_nan=True)
            torch.testing.assert_close(alone[name], values[2:3], rtol=1e-3, atol=1e-6, equal_nan=True)


def test_the_second_seed_is_drawn_by_content_and_agrees(lcnn):
    x = torch.rand(100, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    table = curvature(lcnn, x, torch.zeros(100, dtype=torch.long), terms=False)
    chosen = uniform(example_keys(x, 0), Stream.SECOND_LANCZOS_CHOICE) < SECOND_SEED_SHARE
    second = table["hessian_norm_second_seed"]
    assert 1 <= int(chosen.sum()) <= 15
    assert torch.equal(~second.isnan(), chosen)
    torch.testing.assert_close(second[chosen], table["hessian_norm"][chosen], rtol=0.01, atol=0)


def test_disagreement_of_the_second_seed_is_not_called_converged(standard, monkeypatch):
    from bench.evaluations import curvature as module

    x = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    y = torch.zeros(60, dtype=torch.long)
    honest = module.curvature(standard, x, y, terms=False)
    monkeypatch.setattr(module, "SECOND_SEED_AGREES", -1.0)
    strict = module.curvature(standard, x, y, terms=False)
    chosen = ~honest["hessian_norm_second_seed"].isnan()
    assert not strict["converged"][chosen].any()
    assert torch.equal(strict["converged"][~chosen], honest["converged"][~chosen])


def test_the_model_is_left_as_found(model, images):
    x, y = images
    model.train()
    model[0].fc.eval()
    next(model.parameters()).requires_grad_(False)
    next(model.parameters()).grad = None
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    rng = torch.get_rng_state()
    precision = torch.backends.cudnn.conv.fp32_precision
    curvature(model, x, y)
    curvature(model, x, y, precision="float64")
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert torch.backends.cudnn.conv.fp32_precision == precision


def test_wrong_arguments_and_broken_models_are_named(lcnn, images):
    x, y = images
    with pytest.raises(UsageError, match="expected at least 1, got 0"):
        curvature(lcnn, x, y, steps=0)
    with pytest.raises(UsageError, match="expected float32 or float64, got 'bf16'"):
        curvature(lcnn, x, y, precision="bf16")

    third = x[2]

    class Broken(nn.Module):
        def forward(self, x):
            return lcnn(x) / ((x - third).abs().flatten(1).amax(1, keepdim=True) > 1e-6)

    with pytest.raises(BenchError, match="example 2 of the batch"):
        curvature(Broken(), x, y)


def test_a_model_that_cannot_be_copied_is_named(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
    model.cache = model[1].weight * 2
    with pytest.raises(BenchError, match=r"expected one that copy.deepcopy can copy"):
        curvature(model, *images, precision="float64")
