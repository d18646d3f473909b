"""The numbers that the trust evaluation stores, one column each, and which check reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.core.records import Column, Kind


@dataclass(frozen=True, slots=True)
class Number:
    """A per-example number of the trust evaluation.

    Attributes:
        description: one sentence.
        kind: "flag", "value" or "count".
        formula: in plain text.
    """

    description: str
    kind: Kind = "value"
    formula: str = ""


NUMBERS: Final[Mapping[str, Number]] = {
    "v2_not_finite": Number("Logits or gradients are NaN or infinite at the image or near it.", "flag"),
    "v3_repeat_difference": Number(
        "Largest difference of the logits in five calls; infinite if a prediction changed.", formula="‖Δz‖/‖z‖"
    ),
    "v4_batch_difference": Number(
        "Difference of the logits of the image alone, or in another order; infinite if a prediction changed.",
        formula="‖Δz‖/‖z‖",
    ),
    "g1_zero_margin_gradient": Number("The margin's gradient is zero at the image or at a random point near.", "flag"),
    "g2_zero_ce_gradient": Number("The gradient of cross-entropy is zero at the image.", "flag"),
    "g3_error": Number(
        "Error of the margin's gradient at the image, against a central difference along it.",
        formula="|D − ‖g‖| / max(|D|, ‖g‖), D = (m(x + hu) − m(x − hu))/2h, u = g/‖g‖, h = 0.02 eps",
    ),
    "g3_error_in_ball": Number("The same at a random point of the ball."),
}


def trust_columns(prefix: str, norm: str, source: str) -> dict[str, Column]:
    """Return the columns of the trust evaluation in one norm, by name.

    Args:
        prefix: what every name begins with.
        norm: "l2" or "linf".
        source: paper and place.
    """
    return {
        f"{prefix}_{name}": Column(
            number.description,
            kind=number.kind,
            formula=number.formula,
            source=source,
            role="trust",
            params={"norm": norm, "check": name.partition("_")[0].upper(), "number": name},
            shown=False,
        )
        for name, number in NUMBERS.items()
    }
