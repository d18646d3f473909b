"""Whether a robust accuracy can be believed: the numbers behind the trust grade, per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.attacks.core.losses import margin_loss
from bench.attacks.pgd import pgd
from bench.core.decorators import evaluation
from bench.core.errors import BenchError
from bench.core.ranges import Gt
from bench.core.records import Need
from bench.measuring.budgets import check_budgets
from bench.measuring.inputs import BatchInputs
from bench.measuring.judge import judge
from bench.trust.binarisation import binarisation
from bench.trust.columns import NUMBERS, trust_columns
from bench.trust.probes.answers import answers, relative_difference
from bench.trust.probes.forward_pass import forward_pass
from bench.trust.probes.input_gradients import input_gradients
from bench.trust.probes.searches import Subject, searches, where

SOURCE: Final = "docs/trust.md; Carlini et al. 2019, 'On Evaluating Adversarial Robustness'"
NEEDS: Final = (
    Need(role="robust", of="own", optional=True),  # only what survived is searched again
    Need(role="adversarial", of="own", optional=True),
)


def _trust(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    inputs: BatchInputs,
    *,
    name: str,
    norm: str,
    seed: int,
    eps: Sequence[float],
) -> dict[str, Tensor]:
    radius = check_budgets(name, eps, norm, x.shape[1:])[-1]
    subject = Subject(model, x, y, radius, norm, seed)
    numbers = measured(subject, inputs.own.get("robust"), inputs.own.get("adversarial"))
    return {f"{name}_{number}": values for number, values in numbers.items()}


def measured(subject: Subject, robust: Tensor | None, adversarial: Tensor | None) -> dict[str, Tensor]:
    """Return every number, (B,) float32; where the model meets NaN only `v2_not_finite` is known.

    Args:
        subject: images and ball.
        robust: which images the row's attack could not break, bool (B,); None: no attack was run.
        adversarial: the row's adversarial examples, (B, C, H, W), x itself where none is stored; None: none are.
    """
    try:
        return _measured(subject, robust, adversarial)
    except (FloatingPointError, BenchError):
        if len(subject.x) == 1:
            unknown = torch.full((1,), torch.nan, device=subject.x.device)
            return dict.fromkeys(NUMBERS, unknown) | {"v2_not_finite": torch.ones_like(unknown)}
    one_by_one = [
        measured(
            subject.of(slice(i, i + 1)),
            None if robust is None else robust[i : i + 1],
            None if adversarial is None else adversarial[i : i + 1],
        )
        for i in range(len(subject.x))
    ]
    return {name: torch.cat([numbers[name] for numbers in one_by_one]) for name in NUMBERS}


def _measured(subject: Subject, robust: Tensor | None, adversarial: Tensor | None) -> dict[str, Tensor]:
    """Return every number, (B,) float32.

    Raises:
        BenchError: something was not finite.
    """
    model, x, y = subject.model, subject.x, subject.y
    numbers, z = forward_pass(model, x)
    if not z.isfinite().all():
        raise BenchError("trust: expected finite logits, got NaN or infinity. Fix the model's forward.")
    numbers |= answers(model, x, z)
    numbers |= input_gradients(model, x, y, eps=subject.eps, norm=subject.norm, seed=subject.seed)
    numbers |= searches(subject, robust)
    found, random_found, ok = binarisation(
        model, x, y, eps=subject.eps, norm=subject.norm, seed=subject.seed, attack=pgd
    )
    numbers |= {"t1_found": where(ok, found), "t1_random": where(ok, random_found)}
    with torch.no_grad():
        numbers["v5_after_difference"] = relative_difference(z, model(x))
    numbers["v5_margin"] = -margin_loss(z, y)
    numbers["v6_holds"] = _holds(subject, adversarial)
    return {name: numbers[name].to(torch.float32) for name in NUMBERS}


def _holds(subject: Subject, adversarial: Tensor | None) -> Tensor:
    """Return whether stored adversarial examples hold, (B,); NaN where none is stored."""
    if adversarial is None:
        return torch.full((len(subject.x),), torch.nan, device=subject.x.device)
    stored = (adversarial != subject.x).flatten(1).any(1)
    judged = judge(subject.model, subject.x, subject.y, adversarial, eps=subject.eps, norm=subject.norm)
    return torch.where(stored, judged.broken.float(), torch.nan)


@evaluation(source=SOURCE, columns=trust_columns("trust", "l2", SOURCE), needs=NEEDS)
def trust(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    inputs: BatchInputs,
    seed: int = 0,
    eps: Sequence[Annotated[float, Gt(0)]] = (0.5,),
) -> dict[str, Tensor]:
    """Measure what the checks of trust read, in l2: answers, gradients, and attacks with other settings than the row's.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        inputs: the row's verdicts and adversarial examples, where there are any.
        seed: of the random draws, which belong to the image.
        eps: radius of the ball; of several the largest.

    Returns:
        The columns by name, (B,) each.

    Raises:
        UsageError: an impossible eps.
    """
    return _trust(model, x, y, inputs, name="trust", norm="l2", seed=seed, eps=eps)


@evaluation(source=SOURCE, columns=trust_columns("trust_linf", "linf", SOURCE), needs=NEEDS)
def trust_linf(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    inputs: BatchInputs,
    seed: int = 0,
    eps: Sequence[Annotated[float, Gt(0)]] = (8 / 255,),
) -> dict[str, Tensor]:
    """Measure what the checks of trust read, in linf; see `trust`.

    Returns:
        The columns by name, (B,) each.

    Raises:
        UsageError: an impossible eps.
    """
    return _trust(model, x, y, inputs, name="trust_linf", norm="linf", seed=seed, eps=eps)
