"""What docs/theory.md states, as arithmetic: counterexamples to what is false, and proofs' steps for what is true."""

import itertools
import math

import pytest
import torch

DOUBLE = torch.float64


def s0(z, beta):
    return torch.log((1 + (beta * z).exp()) / 2) / beta


def derivatives(function, x):
    """Return f'(x) and f''(x) of a scalar function, elementwise."""
    x = x.clone().requires_grad_(True)
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return first.detach(), second


def normalised(function, x, eps0=0.0):
    first, second = derivatives(function, x)
    return second.abs() / (first.abs() + eps0)


# --- Lemma 1 and Theorem 1 as printed are false -----------------------------------------------------------------


def chains(count, length, seed=0):
    """Yield random chains f = f_L∘…∘f_1 of f_i(u) = s0(w_i u + b_i; β_i)."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        w, b = torch.randn(2, length, generator=draw, dtype=DOUBLE)
        beta = 0.5 + 5 * torch.rand(length, generator=draw, dtype=DOUBLE)
        yield [lambda u, i=i, w=w, b=b, beta=beta: s0(w[i] * u + b[i], beta[i]) for i in range(length)]


def chain_terms(chain, x):
    """Return C_f(x), the signed sum, Lemma 1's sum with j < i, and its sum with j ≤ i, at x (1,)."""

    def whole(u):
        for f in chain:
            u = f(u)
        return u

    first, second = derivatives(whole, x)
    product, signed, right, printed, u = 1.0, 0.0, 0.0, 0.0, x
    for f in chain:
        slope, bend = (float(d) for d in derivatives(f, u))
        signed += bend / slope * product
        right += abs(bend / slope * product)
        printed += abs(bend / slope * product * slope)
        product *= slope
        u = f(u)
    return float(second / first), signed, right, printed


def test_lemma_1_holds_with_the_empty_product_first_and_fails_as_printed():
    violated = 0
    for chain in chains(200, 3):
        truth, signed, right, printed = chain_terms(chain, torch.zeros(1, dtype=DOUBLE))
        assert truth == pytest.approx(signed, rel=1e-7, abs=1e-12)  # f''/f' = Σ (f_i''/f_i')·Π_{j<i} f_j'
        assert abs(truth) <= right * (1 + 1e-9)
        violated += abs(truth) > printed * (1 + 1e-9)
    assert violated > 0


def test_the_shortest_counterexample_to_lemma_1():
    # L = 1, f = x/2 + x²/10 at 0: C_f = 0.4, and the printed sum is C_f·|f'| = 0.2
    def f(u):
        return u / 2 + u**2 / 10

    c = float(normalised(f, torch.zeros(1, dtype=DOUBLE)))
    assert c == pytest.approx(0.4)
    assert c > c * 0.5


@pytest.mark.parametrize("eps0", [0.0, 1e-6, 0.1])
def test_one_layer_s0_of_half_x_refutes_the_max_form(eps0):
    # L = 1, f = s0(x/2): the printed bound says sup C ≤ ½·sup C
    grid = torch.linspace(-60, 60, 4001, dtype=DOUBLE)
    largest = float(normalised(lambda u: s0(u / 2, 2.0), grid, eps0).max())
    slope = float(derivatives(lambda u: s0(u / 2, 2.0), grid)[0].max())
    assert slope <= 0.5
    assert largest > largest * slope > 0


@pytest.mark.parametrize("beta", [1.0, 5.0])
def test_theorem_1_is_false_for_a_network_with_all_norms_one(beta):
    # f1(x) = (x, −x)/√2, f2 = s0, f3(a) = (a1 + a2)/√2: spectral norms 1, 1, 1
    root = math.sqrt(2)

    def f(x):
        return (s0(x / root, beta) + s0(-x / root, beta)) / root

    x = torch.tensor([0.0, 0.3], dtype=DOUBLE)
    closed = root / beta * torch.cosh(beta * x / math.sqrt(8)).log()
    torch.testing.assert_close(f(x), closed, rtol=1e-12, atol=1e-15)
    first, second = derivatives(f, torch.zeros(1, dtype=DOUBLE))
    assert float(first) == pytest.approx(0.0, abs=1e-15)
    assert float(second) == pytest.approx(beta / (4 * root))
    right = 2 * beta  # n_2 = 2 times sup C_{f_2} < β; the other layers are linear; either index
    for eps0 in (1e-2, 1e-4, 1e-6):
        assert float(second) / eps0 > right
    near = torch.tensor([1e-3], dtype=DOUBLE)  # with ε0 = 0 it is false beside the critical point
    assert float(normalised(f, near)) > right


def test_grouping_layers_does_not_rescue_it():
    # s0(wx) as one layer: C = w·C_{s0}; the printed product then has that layer's own slope w·s' < 1 for small w
    w, beta = 0.2, 3.0
    grid = torch.linspace(-200, 20, 4001, dtype=DOUBLE)
    c = normalised(lambda u: s0(w * u, beta), grid)
    slope = derivatives(lambda u: s0(w * u, beta), grid)[0]
    assert float(c.max()) > float(c.max() * slope.max())
    assert (c > c * slope).all()


def test_a_difference_of_two_units_has_unbounded_curvature():
    # f = s(x + b1) − c·s(x + b2), c = s'(b1)/s'(b2): f'(0) = 0 and f''(0) ≠ 0; the max form stays at 2√2·β
    b1, b2 = torch.tensor(0.0, dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE)
    c = b1.sigmoid() / b2.sigmoid()

    def f(x):
        return s0(x + b1, 1.0) - c * s0(x + b2, 1.0)

    values = normalised(f, torch.tensor([0.1, 0.01, 0.001], dtype=DOUBLE)).tolist()
    assert values == pytest.approx([10.2, 100.0, 1000.0], rel=0.05)
    assert values[0] > 2 * math.sqrt(2)


def test_beta_belongs_to_the_slope_and_a_quarter_of_it_to_the_output():
    # One unit f = s0(z): |f''| = β(1 − s')s' ≤ β·|∂f/∂z| and ≤ (β/4)·|∂f/∂a|; (β/4)·|∂f/∂z| is false
    beta = 4.0
    z = torch.linspace(-3, 3, 601, dtype=DOUBLE)
    slope, bend = derivatives(lambda u: s0(u, beta), z)
    assert (bend <= beta * slope).all()
    assert (bend <= beta / 4 * (1 + 1e-9)).all()
    assert (bend > beta / 4 * slope).any()


def test_a_skip_around_the_activation_refutes_the_bound_by_the_slope():
    # f = s0(z) − z/2 at 0: ∂f/∂z = 0 would bound a curvature of β/4 by 0
    first, second = derivatives(lambda u: s0(u, 3.0) - u / 2, torch.zeros(1, dtype=DOUBLE))
    assert float(first) == pytest.approx(0.0, abs=1e-15)
    assert float(second) == pytest.approx(0.75)


# --- what is true ----------------------------------------------------------------------------------------------


def softmax_facts(logits, y):
    p = logits.softmax(-1)
    covariance = torch.diag_embed(p) - p[..., :, None] * p[..., None, :]
    norm = torch.linalg.eigvalsh(covariance)[..., -1]
    error = (p - torch.nn.functional.one_hot(y, logits.shape[-1])).norm(dim=-1)
    return norm, error, 1 - p.gather(-1, y[..., None]).squeeze(-1)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_first_steps_of_the_softmax_proof(classes):
    # vᵀH_zv ≤ Σ p_k(v_k − v_y)² = e(v_y² − 2v_y·m + Σu_kv_k²) ≤ e(a² + 2s·ab + s·b²); ‖q‖ = e√(1 + s²); Gershgorin
    draw = torch.Generator().manual_seed(classes)
    for _ in range(200):
        p = (3 * torch.randn(classes, generator=draw, dtype=DOUBLE)).softmax(0)
        v = torch.randn(classes, generator=draw, dtype=DOUBLE)
        e, u = 1 - p[0], p[1:] / (1 - p[0])
        s, m, a, b = u.norm(), u @ v[1:], v[0].abs(), v[1:].norm()
        variance = v @ (p.diag() - p.outer(p)) @ v
        moment = (p * (v - v[0]).square()).sum()
        assert variance <= moment * (1 + 1e-12)
        assert float(moment) == pytest.approx(float(e * (v[0] ** 2 - 2 * v[0] * m + (u * v[1:] ** 2).sum())))
        assert moment <= e * (a**2 + 2 * s * a * b + s * b**2) * (1 + 1e-12)
        q = p.clone()
        q[0] -= 1
        assert float(q.norm()) == pytest.approx(float(e * (1 + s**2).sqrt()))
        discs = 2 * p * (1 - p)
        assert torch.linalg.eigvalsh(p.diag() - p.outer(p))[-1] <= discs.max() * (1 + 1e-12)
        assert (discs <= torch.minimum(2 * e, torch.tensor(0.5, dtype=DOUBLE)) * (1 + 1e-12)).all()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_softmax_curvature_is_bounded_by_the_error(classes):
    draw = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(4000, classes, generator=draw, dtype=DOUBLE)
    y = torch.randint(classes, (4000,), generator=draw)
    norm, error, missing = softmax_facts(logits, y)
    assert (norm <= math.sqrt(2) * error * (1 + 1e-8)).all()
    assert (norm <= 0.5 + 1e-12).all()
    assert (norm <= 2 * missing * (1 + 1e-8)).all()
    assert (norm > 1.3 * error).any()  # a constant of 1.3 would be false
    assert (norm > 0.49).any()


def test_root_two_is_approached_when_the_missing_mass_is_on_one_class():
    logits = torch.tensor([[12.0, 0.0, -40.0]], dtype=DOUBLE)
    norm, error, _ = softmax_facts(logits, torch.tensor([0]))
    ratio = float(norm / error)
    assert math.sqrt(2) * (1 - 1e-4) < ratio < math.sqrt(2)


def test_two_classes_in_closed_form():
    u = torch.linspace(-5, 5, 11, dtype=DOUBLE)
    norm, error, missing = softmax_facts(torch.stack([torch.zeros_like(u), u], 1), torch.zeros(11, dtype=torch.long))
    torch.testing.assert_close(missing, u.sigmoid())
    torch.testing.assert_close(norm, 2 * u.sigmoid() * (1 - u.sigmoid()))
    torch.testing.assert_close(error, math.sqrt(2) * u.sigmoid())


def test_the_last_step_of_the_softmax_proof():
    # ((1 + s) + √((1 − s)² + 4s²))/2 ≤ √2·√(1 + s²) on [0, 1], equality at s = 1 only
    s = torch.linspace(0, 1, 1001, dtype=DOUBLE)
    left = ((1 + s) + ((1 - s) ** 2 + 4 * s**2).sqrt()) / 2
    right = (2 * (1 + s**2)).sqrt()
    assert (left[:-1] < right[:-1]).all()
    assert float(left[-1]) == pytest.approx(float(right[-1]))


def random_layers(seed, sizes=(4, 5, 3, 1), beta=2.0):
    """Return the layers of a small network R⁴ → R: affine, s0, affine, s0, affine."""
    draw = torch.Generator().manual_seed(seed)
    layers = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        w, c = torch.randn(b, a, generator=draw, dtype=DOUBLE), torch.randn(b, generator=draw, dtype=DOUBLE)
        layers.append(lambda u, w=w, c=c: w @ u + c)
        if i < len(sizes) - 2:
            layers.append(lambda u: s0(u, beta))
    return layers


def bilinear_norm(function, x):
    """Return max ‖∇²f(u, v)‖ over unit u, v, from below by alternating maximisation; exact for outputs in R."""
    hessians = torch.autograd.functional.jacobian(
        lambda u: torch.autograd.functional.jacobian(function, u, create_graph=True), x
    )
    if len(hessians) == 1:
        return float(torch.linalg.eigvalsh(hessians[0]).abs().max())
    diagonal = torch.stack([h.diagonal() for h in hessians])
    assert torch.equal(torch.diag_embed(diagonal), hessians)  # elementwise layers only
    return float(diagonal.abs().max())


@pytest.mark.parametrize("seed", range(5))
def test_the_hessian_over_the_product_of_norms_is_bounded_by_the_sum_over_layers(seed):
    # (3.2): ‖∇²f‖/Π‖J_j‖ ≤ Σ C_{f_i}·Π_{j<i}‖J_j‖, and the same over ‖∇f‖ is false where the factors cancel
    layers, x = random_layers(seed), torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)

    def whole(u):
        for f in layers:
            u = f(u)
        return u

    right, product, u = 0.0, 1.0, x
    for f in layers:
        slope = float(torch.linalg.matrix_norm(torch.autograd.functional.jacobian(f, u), 2))
        right += bilinear_norm(f, u) / slope * product
        product *= slope
        u = f(u)
    assert bilinear_norm(whole, x) / product <= right * (1 + 1e-9)
    gradient = torch.autograd.functional.jacobian(whole, x)
    assert float(gradient.norm()) <= product * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_hessian_is_the_loss_and_the_network_and_leaves_no_term_out(seed):
    # ∇²f = JᵀH_zJ + Σ_k q_k∇²z_k; without −∇²z_y, as section 5.1 prints it, it is another matrix
    layers = random_layers(seed, (4, 6, 5, 3))
    x, y = torch.randn(4, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE), torch.tensor(1)

    def logits(u):
        for f in layers:
            u = f(u)
        return u

    p = logits(x).softmax(0)
    q = p - torch.nn.functional.one_hot(y, 3)
    j = torch.autograd.functional.jacobian(logits, x)
    gradient, hessian = (
        f(lambda u: torch.nn.functional.cross_entropy(logits(u), y), x)
        for f in (torch.autograd.functional.jacobian, torch.autograd.functional.hessian)
    )
    torch.testing.assert_close(gradient, j.T @ q, rtol=1e-9, atol=1e-12)
    covariance = p.diag() - p.outer(p)
    network = torch.autograd.functional.hessian(lambda u: logits(u) @ q, x)
    torch.testing.assert_close(hessian, j.T @ covariance @ j + network, rtol=1e-9, atol=1e-12)
    printed = torch.autograd.functional.hessian(lambda u: logits(u) @ p, x)
    assert (hessian - j.T @ covariance @ j - printed).abs().max() > 1e-3
    # C_f ≤ (√2‖J‖² + ‖∇²z‖)·‖q‖/‖Jᵀq‖, with ‖∇²z‖ ≥ ‖Σ_k (q_k/‖q‖)∇²z_k‖ at its least
    least = torch.linalg.eigvalsh(network).abs().max() / q.norm()
    right = (math.sqrt(2) * torch.linalg.matrix_norm(j, 2) ** 2 + least) * q.norm() / gradient.norm()
    assert float(torch.linalg.eigvalsh(hessian).abs().max() / gradient.norm()) <= float(right) * (1 + 1e-9)


@pytest.mark.parametrize("beta", [1e-3, 0.7, 5.0, 1e3])
def test_centered_softplus_facts(beta):
    from bench.models.layers import centered_softplus

    b = torch.tensor(beta, dtype=DOUBLE)
    x = torch.linspace(-3, 3, 2001, dtype=DOUBLE)
    value = centered_softplus(x, b)
    slope, bend = derivatives(lambda u: centered_softplus(u, b), x)
    assert float(centered_softplus(torch.zeros(1, dtype=DOUBLE), b)) == 0.0
    assert (slope >= 0).all()
    assert (slope <= 1).all()
    torch.testing.assert_close(bend, b * (1 - slope) * slope, rtol=1e-9, atol=1e-9 * beta)
    assert float(bend[1000]) == pytest.approx(beta / 4)  # at 0; autograd through |x| would give 0
    assert (value <= x.relu() + 1e-15).all()
    assert (value >= x.relu() - math.log(2) / beta - 1e-12).all()
    assert ((value - x / 2).abs() <= torch.minimum(beta * x**2 / 8, x.abs() / 2) + 1e-12).all()
