"""Transfer: adversarial examples that were found against other models, tried on this one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.records import Column
from bench.measuring.judge import judge, predict

SOURCE = "Papernot et al. 2016, 'Transferability in Machine Learning'"


def transfer_columns(
    model: nn.Module, x: Tensor, y: Tensor, *, candidates: Mapping[str, Tensor], eps: float, norm: str
) -> dict[str, Any]:
    """Try every candidate on the model: one pass each, no search.

    No function of (model, x, y) alone: whoever holds the stored examples of the other rows calls it.

    Args:
        x: clean images (B, C, H, W) in [0, 1]; `y` (B,): their true labels.
        candidates: name of the row it was found against, to adversarial images (B, C, H, W); the clean image
            where that row's model was not broken.
        eps: radius that a candidate must keep; `norm`: "l2" or "linf".

    Returns:
        `transfer_<norm>_<eps>_` + `robust` (B,) bool: right on the image and on every candidate; `broken_by`,
        the first row whose example breaks it ("clean" if none is needed, "" if none does); `distance` (B,).

    Raises:
        BenchError: a candidate or an answer of the model is not finite.
    """
    robust = predict(model, x) == y
    distance = torch.where(robust, torch.nan, 0.0).to(x.dtype)
    by = ["" if ok else "clean" for ok in robust.tolist()]
    for row, points in sorted(candidates.items()):
        verdict = judge(model, x, y, points, eps=eps, norm=norm)
        hit = verdict.broken & robust
        distance = torch.where(hit, verdict.distance, distance)
        robust = robust & ~hit
        for i in hit.nonzero()[:, 0].tolist():
            by[i] = row
    name = f"transfer_{norm}_{eps:g}"
    return {f"{name}_robust": robust, f"{name}_broken_by": by, f"{name}_distance": distance}


def describe_transfer(norm: str) -> dict[str, Column]:
    """Return what `transfer_columns` gives, by pattern of the name."""
    name = f"transfer_{norm}_{{eps}}"
    return {
        f"{name}_robust": Column(
            "Right on the image and on every adversarial example found against the other rows.",
            kind="flag", aggregate="fraction", direction="higher", source=SOURCE, role="transfer",
            params={"norm": norm},
        ),
        f"{name}_broken_by": Column("The row whose adversarial example breaks it first.", kind="text", source=SOURCE),
        f"{name}_distance": Column("Size of that perturbation.", unit=f"{norm} norm on [0, 1] pixels", source=SOURCE),
    }  # fmt: skip
