"""The smallest step that breaks an image, against the distance to a plane that is known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.evaluations.breaking import breaking_distance, breaking_l2, breaking_linf, describe_breaking
from bench.measuring.inputs import BatchInputs


class Planes(nn.Module):
    """Two classes in the plane: class 1 where the first pixel is at least 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, 0] - 0.5
        return torch.stack([-first, first], 1)


def images(*pixels: tuple[float, float]) -> Tensor:
    return torch.tensor(pixels).reshape(-1, 1, 1, 2)


X, Y = images((0.3, 0.2), (0.3, 0.2), (0.7, 0.0), (0.1, 0.0)), torch.tensor([0, 0, 0, 0])
ADVERSARIAL = images((0.7, 0.2), (0.6, 0.6), (0.9, 0.0), (0.1, 0.0))


def test_the_step_reaches_just_over_the_plane_whatever_the_attacks_length() -> None:
    found = breaking_distance(Planes(), X, Y, ADVERSARIAL, eps=1.0, norm="l2", steps=14)
    whole = (ADVERSARIAL - X).flatten(1).norm(dim=1)
    exact = [0.2, (2 / 3) * whole[1].item(), 0.0]
    assert found[:3].tolist() == pytest.approx(exact, rel=1e-3)
    assert found[0] < 0.51 * whole[0], "the attack's own length is twice as far"
    assert torch.isnan(found[3]), "robust: there is no example"
    largest = breaking_distance(Planes(), X, Y, ADVERSARIAL, eps=1.0, norm="linf", steps=14)
    assert largest[1].item() == pytest.approx((2 / 3) * 0.4, rel=1e-3)


def test_the_step_itself_breaks_the_image() -> None:
    found = breaking_distance(Planes(), X[:1], Y[:1], ADVERSARIAL[:1], eps=1.0, norm="l2", steps=3)
    delta = ADVERSARIAL[:1] - X[:1]
    assert Planes()(X[:1] + delta * found / delta.norm()).argmax(1) == 1


@pytest.mark.parametrize("given", ["both", "no flags", "nothing", "outside the ball"])
def test_what_is_not_known_to_break_is_missing(given: str) -> None:
    own = {"adversarial": ADVERSARIAL, "robust": torch.tensor([False, False, False, True])}
    own = {"no flags": {"adversarial": ADVERSARIAL}, "nothing": {}}.get(given, own)
    eps = 0.3 if given == "outside the ball" else 1.0
    columns = breaking_l2(Planes(), X, Y, inputs=BatchInputs(own=own), eps=[eps])
    assert set(columns) == {pattern.replace("{eps}", f"{eps:g}") for pattern in describe_breaking("l2")}
    (found,) = columns.values()
    known = {"nothing": [2], "outside the ball": [2]}.get(given, [0, 1, 2])
    assert (~torch.isnan(found)).nonzero()[:, 0].tolist() == known


def test_each_norm_has_its_column() -> None:
    columns = breaking_linf(Planes(), X, Y, inputs=BatchInputs(own={"adversarial": ADVERSARIAL}), eps=[0.5])
    assert list(columns) == ["breaking_linf_0.5_distance"]
