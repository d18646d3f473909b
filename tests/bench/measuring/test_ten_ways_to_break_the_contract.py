"""Each of the ten things that the model contract asks for, broken one at a time, and what is said of it at the door."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bench
from bench.core.errors import UsageError

N, K = 20, 3
COUNTED = 40  # passes after which an expensive evaluation has begun


class Around(nn.Module):
    """A linear network on (B, 1, 4, 4), with a function of it and the images in its place."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network, self.function, self.calls = nn.Sequential(nn.Flatten(), nn.Linear(16, K)), function, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.function(self.network, x)


def data(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    x = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return scale * x, Around(lambda n, x: n(x))(x).argmax(1)


def on_two_devices() -> nn.Module:
    model = Around(lambda n, x: n(x))
    model.elsewhere = nn.Parameter(torch.zeros(1, device="meta"))
    return model


def normed_by_the_batch(n: nn.Module, x: Tensor) -> Tensor:
    return F.batch_norm(torch.cat([n(x), n(x) + 1]), None, None, training=True)[: len(x)]


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "shape": (lambda: Around(lambda n, x: n(x)[:, :, None]), r"expected logits of shape \(B, K\)"),
    "dtype": (lambda: Around(lambda n, x: n(x).half()), "expected float32 logits, got float16"),
    "device": (on_two_devices, "expected none for a model on"),
    "class count": (lambda: Around(lambda n, x: n(x)[:, :2]), r"expected labels below 2 \(the logits' width\), got 2"),
    "eval mode": (lambda: Around(normed_by_the_batch), r"for an image alone in eval mode.*batch norm in train mode"),
    "determinism": (lambda: Around(lambda n, x: n(x) + torch.rand(len(x), K)), "the same logits twice"),
    "batch independence": (lambda: Around(lambda n, x: n(x) - n(x).mean(0)), "for an image alone .* other images"),
    "input not edited": (lambda: Around(lambda n, x: n(x.mul_(0.5))), "expected its input left alone"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_before_anything_expensive(kind: str) -> None:
    build, words = REFUSED[kind]
    model, names = build(), ["accuracy", "pgd_l2"]
    with pytest.raises(UsageError, match=words):
        bench.evaluate(model, data=data(), evaluations=names, device="cpu" if kind == "device" else None)
    assert model.calls < COUNTED


@pytest.mark.parametrize("scale", [255.0, -1.0, torch.nan])
def test_images_out_of_range_are_refused(scale: float) -> None:
    model = Around(lambda n, x: n(x))
    with pytest.raises(UsageError, match=r"\[0, 1\]|finite"):
        bench.evaluate(model, data=data(scale), evaluations=["accuracy"])
    assert model.calls == 0


@pytest.mark.parametrize("randomised", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_probabilities_are_named_before_anything_expensive(softmax: bool, randomised: bool) -> None:
    def answer(n: nn.Module, x: Tensor) -> Tensor:
        z = n(x + 0.1 * torch.rand_like(x)) if randomised else n(x)
        return z.softmax(1) if softmax else z

    model, heard = Around(answer), list[tuple[str, int]]()
    call = {"evaluations": ["accuracy"], "randomised": randomised}
    bench.evaluate(model, data=data(), **call, progress=lambda line: heard.append((line, model.calls)))
    notes = [(line, calls) for line, calls in heard if line.startswith("note: ")]
    assert len(notes) == softmax
    for line, calls in notes:
        assert "model Around: expected logits, got probabilities" in line
        assert calls < COUNTED


def test_probabilities_in_the_place_of_logits_are_flagged() -> None:
    model = Around(lambda n, x: n(x).softmax(1))
    table = bench.evaluate(model, data=data(), evaluations=["accuracy", "fgsm_l2", "trust"], eps=0.2)
    check = table.attrs["trust"]["checks"]["G5"]
    assert (check["verdict"], check["severity"]) == ("fail", "soft")
    assert "probabilities" in check["words"]
    assert table.attrs["trust"]["grade"] != "A"
