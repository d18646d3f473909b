"""Verdicts of attacks that a benchmark keeps: it goes on where it ended, and another network is another one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.attacks import Case
from benchmarks.verdicts import Kept, attacked, seeds_of_losers


class Linear(nn.Module):
    """Two classes of four pixels: the logits are ±(sum of the pixels − shift)."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1).sum(1) - self.shift
        return torch.stack([-value, value], 1)


class Push:
    """Moves every pixel down by eps times a strength, or twice that with any seed but 0; counts its calls."""

    def __init__(self, strength: float) -> None:
        self.strength, self.calls = strength, 0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int) -> Tensor:
        self.calls += 1
        assert norm == "linf"
        model(x)
        return x - eps * min(1.0, self.strength * (2 if seed else 1))


def case(shift: float = 1.0) -> Case:
    x = torch.tensor([0.29, 0.34, 0.9])[:, None, None, None].expand(3, 1, 2, 2)
    return Case("linear", Linear(shift), x, torch.ones(3, dtype=torch.long), 0.1, "linf")


def test_what_is_kept_is_not_computed_again(tmp_path):
    path = tmp_path / "kept.json"
    pushes = {"weak": Push(0.5), "strong": Push(1.0)}  # weak breaks image 0 alone, strong 0 and 1
    found = []
    for _ in range(2):
        kept = Kept(path)
        network = attacked(case(), pushes, 2, kept)
        assert network.robust("weak").tolist() == [False, True, True]
        assert network.robust("strong").tolist() == [False, False, True]
        assert len(network.sides["weak"].seconds) == 2
        found.append(list(seeds_of_losers(case(), network, [("weak", "strong")], pushes, kept)))
    assert found == [[("strong", "weak", 1, [1, 2, 3])]] * 2
    assert pushes["weak"].calls == 2 + 3
    assert pushes["strong"].calls == 2


def test_a_benchmark_that_was_ended_goes_on_with_what_is_missing(tmp_path):
    path, done, missing = tmp_path / "kept.json", Push(0.5), Push(1.0)

    def killed(*_: object, **__: object) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attacked(case(), {"missing": killed, "done": done}, 1, Kept(path))
    network = attacked(case(), {"missing": missing, "done": done}, 1, Kept(path))
    assert (done.calls, missing.calls) == (1, 1)
    assert network.robust("missing").tolist() == [False, False, True]


def test_other_weights_are_another_network(tmp_path):
    path, push = tmp_path / "kept.json", Push(1.0)
    attacked(case(), {"push": push}, 1, Kept(path))
    network = attacked(case(0.5), {"push": push}, 1, Kept(path))
    assert push.calls == 2
    assert network.robust("push").tolist() == [True, True, True]
