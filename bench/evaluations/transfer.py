"""Transfer: adversarial examples that were found against other models, tried on this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from bench.core.best_known import best_known_columns
from bench.core.decorators import evaluation
from bench.core.records import Column, Need, Track
from bench.measuring.inputs import BatchInputs
from bench.measuring.judge import judge, predict

SOURCE: Final = "Papernot et al. 2016, 'Transferability in Machine Learning'"
TRACKS: Final[tuple[Track, ...]] = ("deterministic", "randomised")
NEEDS: Final = (Need(role="adversarial", of="others"), Need(role="robust", of="own"))


def describe_transfer(norm: str) -> dict[str, Column]:
    """Return what the transfer in a norm gives, by pattern of the column's name.

    Args:
        norm: "l2" or "linf".
    """
    name, params = f"transfer_{norm}_{{eps}}", {"norm": norm}
    return {
        f"{name}_robust": Column(
            "Right on the image and on every adversarial example found against the other rows.",
            kind="flag",
            aggregate="fraction",
            direction="higher",
            source=SOURCE,
            role="transfer",
            params=params,
        ),
        f"{name}_broken_by": Column("The row whose adversarial example breaks it first.", kind="text", source=SOURCE),
        f"{name}_distance": Column("Size of that perturbation.", unit=f"{norm} norm on [0, 1] pixels", source=SOURCE),
        **best_known_columns(
            norm,
            description="Right on the image, under the highest-ranked attack, and on every adversarial example found "
            "against the other rows.",
            formula="attack robust ∧ transfer robust",
            source=SOURCE,
        ),
    }


def transfer_columns(
    model: nn.Module, x: Tensor, y: Tensor, *, candidates: Mapping[str, Tensor], eps: float, norm: str
) -> dict[str, Tensor | list[str]]:
    """Try every candidate on the model: one pass each, no search.

    Args:
        model: network in eval mode.
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels (B,).
        candidates: name of the row it was found against, to adversarial images (B, C, H, W); the clean image
            where that row's model was not broken.
        eps: radius that a candidate must keep.
        norm: "l2" or "linf".

    Returns:
        `transfer_<norm>_<eps>_` + `robust` (B,) bool: right on the image and on every candidate; `broken_by`,
        the first row whose example breaks it ("clean" if none is needed, "" if none does); `distance` (B,).

    Raises:
        BenchError: a candidate or an answer of the model is not finite.
    """
    robust = predict(model, x) == y
    distance = torch.where(robust, torch.nan, 0.0).to(x.dtype)
    broken_by = ["" if ok else "clean" for ok in robust.tolist()]
    for row, points in sorted(candidates.items()):
        judged = judge(model, x, y, points, eps=eps, norm=norm)
        hit = judged.broken & robust
        distance = torch.where(hit, judged.distance, distance)
        robust = robust & ~hit
        for i in hit.nonzero()[:, 0].tolist():
            broken_by[i] = row
    name = f"transfer_{norm}_{eps:g}"
    return {f"{name}_robust": robust, f"{name}_broken_by": broken_by, f"{name}_distance": distance}


def _transfer(
    model: nn.Module, x: Tensor, y: Tensor, inputs: BatchInputs, eps: Sequence[float], norm: str
) -> dict[str, Tensor | list[str]]:
    columns: dict[str, Tensor | list[str]] = {}
    for budget in eps:
        found = transfer_columns(model, x, y, candidates=inputs.others["adversarial"], eps=budget, norm=norm)
        robust = found[f"transfer_{norm}_{budget:g}_robust"]
        assert isinstance(robust, Tensor)  # the lists are of strings
        columns |= found | {f"best_known_{norm}_{budget:g}_robust": robust & inputs.own["robust"]}
    return columns


@evaluation(source=SOURCE, columns=describe_transfer("l2"), needs=NEEDS, automatic="stored", tracks=TRACKS)
def transfer_l2(
    model: nn.Module, x: Tensor, y: Tensor, *, inputs: BatchInputs, seed: int = 0, eps: Sequence[float] = (0.5,)
) -> dict[str, Tensor | list[str]]:
    """Try the adversarial examples that were found against the other rows on images x (B, C, H, W), in l2.

    The examples are stored already, so this costs one pass each. Together with the attack's own verdict they give the
    best known robust accuracy.

    Returns:
        The columns by name, (B,) each.

    Raises:
        BenchError: an example or an answer of the model is not finite.
    """
    return _transfer(model, x, y, inputs, eps, "l2")


@evaluation(source=SOURCE, columns=describe_transfer("linf"), needs=NEEDS, automatic="stored", tracks=TRACKS)
def transfer_linf(
    model: nn.Module, x: Tensor, y: Tensor, *, inputs: BatchInputs, seed: int = 0, eps: Sequence[float] = (8 / 255,)
) -> dict[str, Tensor | list[str]]:
    """Try the adversarial examples that were found against the other rows on images x (B, C, H, W), in linf.

    See `transfer_l2`.

    Returns:
        The columns by name, (B,) each.

    Raises:
        BenchError: an example or an answer of the model is not finite.
    """
    return _transfer(model, x, y, inputs, eps, "linf")
