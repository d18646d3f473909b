"""Radii proved by votes: exact limits, abstention, and nothing broken inside."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import nn

from bench.attacks.core.draws import RandomisedModel
from bench.attacks.pgd import pgd
from bench.core import registry
from bench.evaluations.smoothed_certificate import ALPHA, certified_radius, smoothed_certificate, vote_margin
from bench.measuring.judge import judge
from bench.models.defenses.smoothing import Smoothed

SIGMA = 0.1


class Line(nn.Module):
    """Two classes by the first pixel: the smoothed classifier's exact radius is the distance to one half."""

    def forward(self, x):
        gap = 30 * (x[:, 0, 0, 0] - 0.5)
        return torch.stack([-gap, gap], 1)


@pytest.fixture(scope="module")
def line():
    x = torch.full((40, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = torch.linspace(0.3, 0.7, 40)
    model = RandomisedModel(Smoothed(Line(), SIGMA)).eval()
    return model, x, (x[:, 0, 0, 0] > 0.5).long(), (x[:, 0, 0, 0] - 0.5).abs()


def test_the_limit_is_clopper_and_pearsons():
    hits = np.array([0.0, 400, 510, 900, 999, 1000])
    found = certified_radius(hits, 1000, ALPHA, SIGMA)
    for k, radius in zip(hits, found, strict=True):
        limit = beta.ppf(ALPHA, k, 1000 - k + 1) if k else 0.0
        assert radius == pytest.approx(SIGMA * norm.ppf(limit) if limit > 0.5 else 0.0)
    assert found[-1] == pytest.approx(SIGMA * norm.ppf(ALPHA ** (1 / 1000)))
    assert list(found[:3]) == [0, 0, 0], "51 % of 1,000 votes are no certain majority: it abstains"


def test_finite_votes_agree_only_further_inside():
    inside = vote_margin(100, ALPHA, SIGMA)
    p = norm.cdf(inside / SIGMA)
    assert math.exp(-2 * 100 * (p - 0.5) ** 2) == pytest.approx(ALPHA)
    assert vote_margin(5, ALPHA, SIGMA) == math.inf


def test_no_radius_is_larger_than_the_exact_one_and_most_come_close(line):
    model, x, y, exact = line
    found = smoothed_certificate(model, x, y, eps=[0.05], draws=2000)
    radius = found["smoothed_radius"]
    assert (radius <= exact + 1e-6).all()
    near = (exact > 0.05) & (exact < 0.15)
    assert (radius[near] > 0.5 * exact[near]).all()
    assert found["smoothed_abstained"][exact < 0.005].all()
    assert torch.equal(found["smoothed_certified_l2_0.05"], radius >= 0.05)
    assert (found["smoothed_judged_radius"] <= radius).all()
    wrong = smoothed_certificate(model, x, 1 - y)
    assert wrong["smoothed_radius"].max() == 0


def test_what_is_certified_is_not_broken(line):
    model, x, y, _ = line
    eps = 0.06
    found = smoothed_certificate(model, x, y, eps=[eps])
    broken = judge(model, x, y, pgd(model, x, y, eps=eps, steps=10), eps=eps, norm="l2").broken
    assert not (broken & (found["smoothed_judged_radius"] >= eps)).any()
    assert broken.any()
    assert int(found["smoothed_certified_l2_0.06"].sum()) <= int((~broken).sum())


def test_it_repeats_and_does_not_depend_on_the_batch(line):
    model, x, y, _ = line
    whole = smoothed_certificate(model, x, y)["smoothed_radius"]
    parts = [smoothed_certificate(model, x[i : i + 7], y[i : i + 7])["smoothed_radius"] for i in range(0, 40, 7)]
    assert torch.equal(torch.cat(parts), whole)


def test_other_noise_is_no_certificate(line):
    _, x, y, _ = line
    found = smoothed_certificate(RandomisedModel(Line()).eval(), x, y)
    assert found["smoothed_radius"].isnan().all()
    assert not found["smoothed_certified_l2_0.25"].any()
    assert "smoothing_sigma" in found["smoothed_not_applicable"][0]


def test_it_is_planned_for_randomised_models_alone():
    assert registry.evaluations.get("smoothed_certificate").tracks == ("randomised",)
    assert registry.defenses.get("smoothing").track == "randomised"
    assert registry.defenses.get("smoothing").adaptive.eot > 1
