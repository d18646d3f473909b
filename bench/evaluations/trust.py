"""Whether a robust accuracy can be believed: the numbers behind the trust grade, per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.attacks.core.draws import RandomisedModel
from bench.attacks.core.losses import margin_loss
from bench.attacks.pgd import pgd
from bench.core.decorators import evaluation
from bench.core.errors import BenchError
from bench.core.ranges import Gt
from bench.core.records import Need, Track
from bench.measuring.budgets import check_budgets
from bench.measuring.inputs import BatchInputs
from bench.measuring.judge import judge
from bench.trust.allotment import Work, allot
from bench.trust.binarisation import INNER_POINTS, PROBE_IMAGES, binarisation
from bench.trust.columns import NUMBERS, trust_columns
from bench.trust.probes.answers import answers, relative_difference
from bench.trust.probes.draws import draws
from bench.trust.probes.forward_pass import forward_pass
from bench.trust.probes.input_gradients import input_gradients
from bench.trust.probes.searches import Subject, searches, where
from bench.trust.readout import feature_count

TRACKS: Final[tuple[Track, ...]] = ("deterministic", "randomised")
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
    draws, votes = (model.draws, model.votes) if isinstance(model, RandomisedModel) else (0, 0)
    work = None if inputs.passes is None else Work(inputs.passes, inputs.images, inputs.kept, draws, votes)
    rank = None if work is None else inputs.rank
    subject = Subject(model, x, y, radius, norm, seed, rank, allot(work), inputs.witness)
    numbers = measured(subject, inputs.own.get("robust"), inputs.own.get("adversarial"))
    return {f"{name}_{number}": values for number, values in numbers.items()}


def measured(subject: Subject, robust: Tensor | None, adversarial: Tensor | None) -> dict[str, Tensor]:
    """Return every number, (B,) float32; where the model meets NaN only `v2_not_finite` is known.

    Args:
        subject: images and ball.
        robust: which images the row's attack could not break, bool (B,); None: no attack was run.
        adversarial: the row's adversarial examples, (B, C, H, W), x itself where none is stored; None: none are.
    """
    unknown = torch.full((len(subject.x),), torch.nan, device=subject.x.device)
    try:
        found = dict.fromkeys(NUMBERS, unknown) | _measured(subject, robust, adversarial)
        return {name: found[name].to(torch.float32) for name in NUMBERS}
    except (FloatingPointError, BenchError):
        if len(subject.x) == 1:
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
    """Return the numbers that were measured, (B,).

    Raises:
        BenchError: something was not finite.
    """
    model, x, y = subject.model, subject.x, subject.y
    numbers, z = forward_pass(model, x)
    if not z.isfinite().all():
        raise BenchError("trust: expected finite logits, got NaN or infinity. Fix the model's forward.")
    numbers["v2_not_finite"] = torch.zeros(len(x), device=x.device)
    some, repeated = subject.runs("answers"), subject.runs("repeats")
    few, correct = subject.of(some), z.argmax(1) == y
    if isinstance(model, RandomisedModel):
        numbers |= _spread(some, _gradients(few, model.held(model.draws)) | draws(model, few.x, few.y))
        numbers |= searches(subject, correct, robust)
    else:
        numbers |= _spread(some, _gradients(few, model))
        numbers |= _spread(repeated, answers(model, x[repeated], z[repeated]))
        numbers |= searches(subject, correct, robust) | _planted(subject)
    with torch.no_grad():
        numbers |= _spread(repeated, {"v5_after_difference": relative_difference(z[repeated], model(x[repeated]))})
    numbers["v5_margin"] = -margin_loss(z, y)
    numbers["v6_holds"] = _holds(subject, adversarial)
    return numbers


def _gradients(few: Subject, model: nn.Module) -> dict[str, Tensor]:
    """Return what gradients of a function show on some of the images; nothing for none."""
    if not len(few.x):
        return {}
    return input_gradients(model, few.x, few.y, eps=few.eps, norm=few.norm, seed=few.seed)


def _spread(rows: Tensor, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the numbers (n,) of the images `rows`, bool (B,), as (B,), NaN for the others."""
    found = {}
    for name, values in numbers.items():
        found[name] = torch.full((len(rows),), torch.nan, device=rows.device)
        found[name][rows] = values.to(torch.float32)
    return found


def _planted(subject: Subject) -> dict[str, Tensor]:
    """Return whether the attack finds planted examples, on the images that this is allotted to."""
    some = subject.runs("planted")
    few = subject.of(some)
    if not len(few.x):
        return {}
    size = feature_count(few.model, few.x[:PROBE_IMAGES], INNER_POINTS)
    found, random_found, ok = binarisation(
        few.model, few.x, few.y, eps=few.eps, norm=few.norm, seed=few.seed, attack=pgd
    )
    numbers = {"t1_found": where(ok, found), "t1_random": where(ok, random_found)}
    return _spread(some, numbers | {"t1_features": torch.full((len(few.x),), float(size), device=few.x.device)})


def _holds(subject: Subject, adversarial: Tensor | None) -> Tensor:
    """Return whether stored adversarial examples hold, (B,); NaN where none is stored."""
    if adversarial is None:
        return torch.full((len(subject.x),), torch.nan, device=subject.x.device)
    stored = (adversarial != subject.x).flatten(1).any(1)
    if not stored.any():
        return torch.full((len(subject.x),), torch.nan, device=subject.x.device)
    x, y, x_adv = subject.x[stored], subject.y[stored], adversarial[stored]
    judged = judge(subject.model, x, y, x_adv, eps=subject.eps, norm=subject.norm)
    return _spread(stored, {"holds": judged.broken})["holds"]


@evaluation(source=SOURCE, columns=trust_columns("trust", "l2", SOURCE), needs=NEEDS, tracks=TRACKS, version=4)
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


@evaluation(source=SOURCE, columns=trust_columns("trust_linf", "linf", SOURCE), needs=NEEDS, tracks=TRACKS, version=4)
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
