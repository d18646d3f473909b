"""Square's queries asked ahead: the points of the search in turn, to the bit, and only where passes are cheap."""

import pytest
import torch
from torch import nn

from bench.attacks.core import square_pace
from bench.attacks.square import square
from bench.measuring.passes import counted
from tests.attacks.known import flags


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(72, 5),
        ).double().eval()  # fmt: skip


@pytest.fixture
def problem():
    model = network()
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, x, model(x).argmax(1)


def both(monkeypatch, problem, **arguments):
    """Return what the search finds in turn and ahead, with the forward passes of each."""
    model, x, y = problem
    results = []
    for cheap in (-1, 1e12):
        monkeypatch.setattr(square_pace, "CHEAP", cheap)
        trace = {}
        with counted(model) as passes:
            found = square(model, x, y, trace=trace, **arguments)
        results.append((found, trace["margin"], passes.forwards))
    return results


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("size", [0.3, 1.0])
def test_it_ends_where_the_search_in_turn_ends(monkeypatch, problem, norm, size):
    """Where nothing breaks, and where most images do on the way."""
    eps = size * (0.3 if norm == "l2" else 0.03)
    (in_turn, margin, passes), (ahead, other, more) = both(monkeypatch, problem, eps=eps, norm=norm, n_queries=700)
    assert torch.equal(in_turn, ahead)
    assert torch.equal(margin, other)
    assert passes < more < 1.3 * passes, "asked ahead, and little in vain"
    model, _, y = problem
    assert flags(model, ahead, y).any()


def test_only_cheap_passes_are_asked_ahead(monkeypatch, problem):
    """Operations by hand: 2 · 12 images · (64 · 4 · 9 + 9 · 8 · 36 + 5 · 72)."""
    model, x, y = problem
    needed = 2 * 12 * (64 * 4 * 9 + 9 * 8 * 36 + 5 * 72)
    asked = []
    for cheap in (needed - 1, needed):
        monkeypatch.setattr(square_pace, "CHEAP", cheap)
        with counted(model) as passes:
            square(model, x, y, eps=0.01, n_queries=300)
        asked.append(passes.forwards)
    assert asked[0] == 12 * 303, "the images, the start, the queries, the end"
    assert asked[1] > asked[0] + 12 * square_pace.AHEAD


def test_nothing_is_asked_ahead_where_logits_depend_on_the_size_of_a_pass(monkeypatch, problem):
    model, x, y = problem

    class Uneven(nn.Module):
        def forward(self, x):
            return model(x) * (1 + 1e-12 * (len(x) > 12))

    (_, _, passes), (_, _, more) = both(monkeypatch, (Uneven(), x, y), eps=0.05, n_queries=300)
    assert more <= passes + 12 * (1 + square_pace.AHEAD), "but for the two passes that compare"
