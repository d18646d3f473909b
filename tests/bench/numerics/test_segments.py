"""Propositions 1 and 2 on traced segments: attained where they can be, and caught where a constant is wrong."""

import dataclasses
import math

import pytest
import torch

from bench.numerics.inequalities import (
    approximations,
    growth_integral,
    phi,
    phi_minus_one,
    proposition_1_bound,
    proposition_1_bound_printed,
    proposition_2_bound,
    proposition_2_bound_printed,
    segment_inequalities,
    taylor_remainder_bound,
)
from bench.numerics.segments import FIRST_INTERVALS, SegmentGrids, trace_segments

DOUBLE = torch.float64
SHARP = ("gradient_integral", "gradient_supremum", "loss_integral", "loss_supremum", "remainder_integral",
         "remainder_supremum", "growth")  # fmt: skip


def line(value, slope, bend):
    """Return the oracle of a function of the first coordinate, from its three derivatives."""

    def oracle(points, segment):
        u = points[:, 0]
        gradient = torch.zeros_like(points)
        product = torch.zeros_like(points)
        gradient[:, 0], product[:, 0] = slope(u), bend(u)
        return value(u), gradient, product

    return oracle


def walk(oracle, start=0.0, radius=1.0, dimensions=3, **settings):
    x = torch.full((1, dimensions), start, dtype=DOUBLE)
    direction = torch.zeros_like(x)
    direction[:, 0] = 1.0
    return trace_segments(oracle, x, direction, torch.tensor([radius], dtype=DOUBLE), **settings)


def exponential(delta):
    return line(
        lambda u: (delta * u).exp(), lambda u: delta * (delta * u).exp(), lambda u: delta**2 * (delta * u).exp()
    )


@pytest.mark.parametrize("delta", [0.3, 2.0, -1.5])
def test_the_exponential_attains_every_sharp_form(delta):
    # f = e^{δx} has C = |δ| everywhere: nothing below e^t − 1 can be true (for δ < 0, the lower growth bound)
    claims = segment_inequalities(walk(exponential(delta), radius=0.7), 0.0)
    assert not any(bool(c.violated) for c in claims.values())
    attained = SHARP if delta > 0 else ("growth",)
    for name in attained:
        assert float(claims[name].left) == pytest.approx(float(claims[name].right), rel=1e-9)


@pytest.mark.parametrize("eps0", [0.0, 1e-6])
@pytest.mark.parametrize("name", SHARP)
def test_a_curvature_one_percent_too_small_is_caught(name, eps0):
    grids = walk(exponential(2.0), radius=0.7)
    wrong = dataclasses.replace(grids, product=0.99 * grids.product)
    assert not bool(segment_inequalities(grids, eps0)[name].violated)
    assert bool(segment_inequalities(wrong, eps0)[name].violated)


@pytest.mark.parametrize("name", ["gradient_printed", "loss_printed"])
def test_half_the_curvature_is_caught_by_the_printed_forms(name):
    # t·e^t at t/2 is below e^t − 1; the loss's form has a spare term, so it takes a longer way to fall short
    grids = walk(exponential(2.0), radius=3.0)
    wrong = dataclasses.replace(grids, product=0.5 * grids.product)
    assert not bool(segment_inequalities(grids, 0.0)[name].violated)
    assert bool(segment_inequalities(wrong, 0.0)[name].violated)


def test_a_dropped_term_is_caught():
    # without ε0 in G, without the 1 in 1 + mean, without −1 in e^D − 1: each is no longer true of a quadratic or e^x
    quadratic = walk(line(lambda u: u**2 / 2, lambda u: u, torch.ones_like), start=1e-8, radius=1e-7)
    claims = segment_inequalities(quadratic, 1e-6)
    assert not any(bool(c.violated) for c in claims.values())
    gradient = float(quadratic.gradient[0, 0])
    t = float(quadratic.radius) * float(quadratic.curvature(1e-6).max())
    assert float(claims["gradient_printed"].left) > gradient * t * math.exp(t)  # ‖∇f‖ for ‖∇f‖ + ε0
    steep = segment_inequalities(walk(exponential(2.0), radius=0.7), 0.0)
    mean = growth_integral(walk(exponential(2.0), radius=0.7), 0.0)
    assert float(steep["loss_integral"].left) > 0.7 * 2.0 * float(mean)
    assert float(steep["remainder_integral"].left) > 0.99 * 0.7 * 2.0 * float(mean)


def test_the_printed_second_proposition_is_false_with_an_epsilon():
    # f = x²/2 at 0: the printed form claims h²/2 ≤ 0; ours holds with ε0
    h, eps0 = 0.5, 0.1
    grids = walk(line(lambda u: u**2 / 2, lambda u: u, torch.ones_like), radius=h)
    t = h * float(grids.curvature(eps0).max())
    assert t == pytest.approx(5.0)
    assert h**2 / 2 > h * float(grids.gradient[0].norm()) * (1 + t * math.exp(t))
    assert not any(bool(c.violated) for c in segment_inequalities(grids, eps0).values())


def test_the_total_integral_must_not_stand_in_the_second_proposition():
    # Curvature that comes first counts longest. C = c/(1 + (s/w)²): A(1) is about 1, yet |Δf| > (e^A − 1)/A.
    w, c = 0.01, 66.0

    def exponent(u):
        return c * w * (u / w).atan()

    grid = torch.linspace(0, 1, 200_001, dtype=DOUBLE)
    rise = torch.cumulative_trapezoid(exponent(grid).exp(), grid)

    def value(u):
        return rise[(u * 200_000).round().long().clamp(1) - 1] * (u > 0)

    grids = walk(line(value, lambda u: exponent(u).exp(), lambda u: exponent(u).exp() * c / (1 + (u / w) ** 2)))
    total = grids.total(grids.upper(0.0))
    claims = segment_inequalities(grids, 0.0)
    assert float(claims["loss_integral"].left) > float(phi(total))
    assert float(claims["remainder_integral"].left) > float(phi_minus_one(total))
    assert not any(bool(claim.violated) for claim in claims.values())


def test_a_narrow_spike_between_the_first_nodes_is_found():
    # A softplus with β = 1e3 bends within 1/β; the first nine nodes are 1/8 of the way apart and do not see it
    beta, kink = 1e3, 0.0423

    def bend(u):
        s = (beta * (u - kink)).sigmoid()
        return beta * s * (1 - s)

    oracle = line(
        lambda u: torch.nn.functional.softplus(u - kink, beta=beta, threshold=1e9) + u,
        lambda u: (beta * (u - kink)).sigmoid() + 1, bend,
    )  # fmt: skip
    grids = walk(oracle, radius=0.1)
    assert FIRST_INTERVALS + 1 < int(grids.nodes) <= 257
    assert bool(grids.settled())
    assert float(grids.total(grids.upper(0.0))) == pytest.approx(math.log(2), rel=0.12)
    assert not any(bool(c.violated) for c in segment_inequalities(grids, 0.0).values())
    coarse = walk(oracle, radius=0.1, max_nodes=9)
    assert int(coarse.nodes) == 9
    assert not bool(coarse.settled())  # a failure there would be undecided
    assert bool(segment_inequalities(coarse, 0.0)["gradient_integral"].violated)


def test_smooth_segments_need_no_more_than_nine_nodes_and_lines_do_not_influence_each_other():
    start = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.3, 0.0]], dtype=DOUBLE)
    direction = torch.tensor([[1.0, 0.0]] * 3, dtype=DOUBLE)
    radius = torch.tensor([0.1, 0.2, 0.05], dtype=DOUBLE)
    together = trace_segments(exponential(1.3), start, direction, radius)
    assert together.nodes.tolist() == [9, 9, 9]
    for i in range(3):
        alone = trace_segments(exponential(1.3), start[i : i + 1], direction[i : i + 1], radius[i : i + 1])
        one, many = segment_inequalities(alone, 0.0), segment_inequalities(together, 0.0)
        for name in one:
            torch.testing.assert_close(many[name].right[i : i + 1], one[name].right, rtol=1e-12, atol=0)


def test_a_wrong_hessian_product_shows_in_the_self_check():
    right = walk(exponential(2.0))
    wrong = walk(line(lambda u: (2 * u).exp(), lambda u: 2 * (2 * u).exp(), lambda u: 3 * (2 * u).exp()), max_nodes=33)
    assert float(right.self_check()) < 0.01
    assert float(wrong.self_check()) > 0.2
    assert not bool(wrong.settled())


def test_demanded_segments_are_refined_to_the_end():
    calls = []

    def demand(grids: SegmentGrids):
        calls.append(int(grids.nodes))
        return torch.ones(1, dtype=torch.bool)

    grids = walk(exponential(1.0), radius=0.1, max_nodes=65, demand=demand)
    assert int(grids.nodes) == 65
    assert calls == [9, 17, 33, 65]


def test_a_critical_point_makes_the_bound_infinite_not_wrong():
    grids = walk(line(lambda u: u**2 / 2, lambda u: u, torch.ones_like), radius=1.0, max_nodes=33)
    claims = segment_inequalities(grids, 0.0)
    assert not any(bool(c.violated) for c in claims.values())
    assert math.isinf(float(grids.curvature(0.0)[0]))


def test_approximations_are_measured_over_claimed():
    h, delta = 0.5, 2.0
    grids = walk(exponential(delta), radius=h)
    ratios = approximations(grids, torch.tensor([delta], dtype=DOUBLE))
    t = h * delta
    assert float(ratios["quadratic_gradient"]) == pytest.approx(math.expm1(t) / t)  # > 1: only an approximation
    assert float(ratios["quadratic_loss"]) == pytest.approx(math.expm1(t) / (t * (1 + t)))
    assert float(ratios["taylor_printed"]) == pytest.approx((math.expm1(t) - t) / (0.5 * delta * h * delta))


def test_helper_functions_do_not_cancel():
    z = torch.tensor([0.0, 1e-12, 1e-5, 9.9e-3, 1.01e-2, 1.0, 5.0], dtype=DOUBLE)
    for value, one, rest in zip(z.tolist(), phi(z).tolist(), phi_minus_one(z).tolist(), strict=True):
        series = [value**k / math.factorial(k + 1) for k in range(40)]
        assert one == pytest.approx(math.fsum(series), rel=1e-13)
        assert rest == pytest.approx(math.fsum(series[1:]), rel=1e-12)


@pytest.mark.parametrize("delta", [0.3, 2.0])
def test_the_exponential_attains_the_named_bounds(delta):
    # f = e^{δu} from u = 0: ∇f = δ, C = δ; the printed forms are larger
    r = torch.tensor([0.7], dtype=DOUBLE)
    t, gradient = delta * r, torch.tensor([delta], dtype=DOUBLE)
    change, rise = delta * ((delta * r).exp() - 1), (delta * r).exp() - 1
    torch.testing.assert_close(proposition_1_bound(gradient, t), change)
    torch.testing.assert_close(proposition_2_bound(r, gradient, phi(t), 0.0), rise)
    torch.testing.assert_close(taylor_remainder_bound(r, gradient, phi_minus_one(t)), rise - r * delta)
    assert (proposition_1_bound_printed(gradient, t) > change).all()
    assert (proposition_2_bound_printed(r, gradient, t) > rise).all()
