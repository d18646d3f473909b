"""Adversarial examples scored anew: box, ball, and the model's answer in float32; `verify` and `challenge` share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.core.torch_state import full_precision, known_state
from bench.measuring.judge import TOLERANCE, judge, predict
from bench.measuring.memory import HalvingBatches
from bench.measuring.model_contract import checked_eval

BATCH: Final = 100
ROUNDING: Final = 1e-4  # of the largest logit; other processors and numbers of threads round 10 to 100 times less


@dataclass(frozen=True)
class Rescored:
    """What the judge says of m adversarial examples.

    Attributes:
        reasons: why each is none, "" where it holds.
        distance: norm of each perturbation, (m,); NaN where it is not finite.
        prediction: the class that the model gives it, (m,); -1 where it was not asked.
        close: whether the model's answer alone speaks against it, and by less than rounding can move, bool (m,).
        lead: the largest logit minus the second, over the largest in absolute value, (m,).
    """

    reasons: tuple[str, ...]
    distance: np.ndarray
    prediction: np.ndarray
    close: np.ndarray
    lead: np.ndarray


@dataclass(frozen=True)
class _Scored:
    """What the judge says of one example."""

    reason: str
    distance: float = float("nan")
    prediction: int = -1
    close: bool = False
    lead: float = 0.0


def rescore(
    model: nn.Module, clean: np.ndarray, labels: np.ndarray, adversarial: np.ndarray, *, eps: float, norm: str
) -> Rescored:
    """Score adversarial examples by the judge of attacks; nothing is clipped, and nothing but these arrays is believed.

    An example holds if it is finite, lies in [0, 1] exactly and within `eps (1 + 1e-5)` of its clean image, which the
    model classifies right, and if the model gives it another class than the label, in float32.

    Args:
        model: network in eval mode on the CPU, images to logits (B, K).
        clean: clean images (m, C, H, W) in [0, 1].
        labels: true classes, (m,).
        adversarial: proposed images (m, C, H, W).
        eps: radius of the ball.
        norm: "l2" or "linf".

    Returns:
        The verdict on each.

    Raises:
        OutOfMemoryError: not even one image fits into memory.
    """
    m = len(labels)
    finite = np.isfinite(adversarial).reshape(m, -1).all(1)
    adversarial = np.where(finite[:, None, None, None], adversarial, 0).astype(np.float32)
    x, y, x_adv = (torch.tensor(np.ascontiguousarray(a)) for a in (clean.astype(np.float32), labels, adversarial))

    def score(part: slice) -> list[_Scored]:
        return _scored(model, x[part], y[part], x_adv[part], eps=eps, norm=norm)

    with known_state(), checked_eval(model), full_precision(torch.device("cpu")):
        parts = HalvingBatches("scoring of adversarial examples", BATCH).run(range(m), score)
    scored = [one for part in parts for one in part]
    scored = [
        one if ok else _Scored("NaN or infinity among its pixels") for one, ok in zip(scored, finite, strict=True)
    ]
    return Rescored(
        reasons=tuple(one.reason for one in scored),
        distance=np.array([one.distance for one in scored], np.float64),
        prediction=np.array([one.prediction for one in scored], np.int64),
        close=np.array([one.close for one in scored], bool),
        lead=np.array([one.lead for one in scored], np.float64),
    )


def _scored(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, eps: float, norm: str) -> list[_Scored]:
    """Return what the judge says of every example of a batch."""
    asked = _Recorded(model)
    try:
        judged = judge(asked, x, y, x_adv, eps=eps, norm=norm)
        right = predict(model, x) == y
    except BenchError as error:
        if len(y) > 1:
            rows = range(len(y))
            return [_scored(model, x[i : i + 1], y[i : i + 1], x_adv[i : i + 1], eps=eps, norm=norm)[0] for i in rows]
        return [_Scored(str(error))]
    prediction = asked.logits.argmax(1)
    gap, lead = _gaps(asked.logits, y)
    outside = judged.refused | (~judged.broken & (judged.distance > eps * (1 + TOLERANCE)))
    low, high = x_adv.flatten(1).amin(1), x_adv.flatten(1).amax(1)
    found = []
    for i in range(len(y)):
        distance, reason, close = float(judged.distance[i]), "", False
        if low[i] < 0 or high[i] > 1:
            reason = f"outside the box: pixels from {float(low[i]):.9g} to {float(high[i]):.9g}, allowed are 0 to 1"
        elif outside[i]:
            reason = f"outside the ball: {norm} distance {distance:.9g}, allowed are {eps:.9g} (1 + {TOLERANCE:g})"
        elif not judged.broken[i]:
            reason = f"not misclassified: the model gives it class {int(prediction[i])}, its label"
            close = abs(float(gap[i])) <= ROUNDING
        elif not right[i]:
            reason = f"no adversarial example is needed: the clean image is misclassified, its label is {int(y[i])}"
        found.append(_Scored(reason, distance, int(prediction[i]), close, float(lead[i])))
    return found


class _Recorded(nn.Module):
    """A model whose last logits (B, K) are kept, so that it need not be asked twice."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.logits = torch.zeros(0, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits."""
        self.logits = self.model(x).float()
        return self.logits


def _gaps(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's logit minus the largest other one, and the largest minus the second, (B,) each.

    Both are relative to the largest logit in absolute value.
    """
    own = logits.gather(1, y[:, None])[:, 0]
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    first, second = logits.topk(2, dim=1).values.T
    scale = logits.abs().amax(1).clamp_min(1e-30)
    return (own - other) / scale, (first - second) / scale
