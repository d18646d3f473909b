"""The numbers that the trust evaluation stores, one column each, and which check reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bench.core.records import Column


@dataclass(frozen=True, slots=True)
class Number:
    """A per-example number of the trust evaluation; what is yes or no is 1 or 0, NaN where it was not measured.

    Attributes:
        description: one sentence.
        formula: in plain text.
    """

    description: str
    formula: str = ""


NUMBERS: Final[Mapping[str, Number]] = {
    "v1_state_changed": Number("A forward pass changed weights, buffers or modes."),
    "v2_not_finite": Number("Logits or gradients are NaN or infinite at the image, near it, or on an attack's way."),
    "v3_repeat_difference": Number(
        "Largest difference of the logits in five calls; at least 1 if a prediction changed.", "‖Δz‖/‖z‖"
    ),
    "v4_batch_difference": Number(
        "Difference of the logits of the image alone, or in another order; at least 1 if a prediction changed.",
        "‖Δz‖/‖z‖",
    ),
    "v5_after_difference": Number("Difference of the logits before and after all probes.", "‖Δz‖/‖z‖"),
    "v5_elsewhere_difference": Number(
        "Difference of the logits where an attack ended, from those of a copy that has seen no image.", "‖Δz‖/‖z‖"
    ),
    "v5_margin": Number("Clean margin, to be compared with that of another process.", "z_y(x) − max_{k≠y} z_k(x)"),
    "v6_holds": Number("The stored adversarial example is in ball and box and misclassified again."),
    "g1_zero_margin_gradient": Number("The margin's gradient is zero at the image or at a random point near it."),
    "g2_zero_ce_gradient": Number("The gradient of cross-entropy is zero at the image."),
    "g3_error": Number(
        "Error of the margin's gradient at the image, against a central difference along it.",
        "|D − ‖g‖| / max(|D|, ‖g‖), D = (m(x + hu) − m(x − hu))/2h, u = g/‖g‖, h = 0.02 eps",
    ),
    "g3_error_in_ball": Number("The same at a random point of the ball."),
    "g4_ce_robust": Number("PGD on cross-entropy alone does not break the image."),
    "g4_margin_robust": Number("PGD on the margin alone does not break the image."),
    "g5_probabilities": Number("The outputs are at least 0 and sum to 1."),
    "g5_flat": Number("The softmax of the outputs is as good as the same for all classes.", "max p ≤ 1/K + 0.01"),
    "g6_stationarity": Number(
        "How much further the margin could rise, to first order, where the attack ended.",
        "max over ball and box of ⟨x' − x_end, g⟩ / (eps‖g‖)",
    ),
    "survivor": Number("Right, and not broken by the row's attack; without one, by PGD."),
    "a1_one_step": Number("A single step of the fast gradient method breaks the image."),
    "a2_broken_by_ce": Number("Twice the steps and a restart on cross-entropy break the surviving image."),
    "a2_broken_by_margin": Number("Twice the steps and a restart on the margin break the surviving image."),
    "a2_late_rise": Number("Part of the margin's rise along a run that came in its last 10 steps."),
    "a3_silent": Number("A run met a misclassified point and did not report it."),
    **{
        f"e1_robust_{f:g}": Number(f"PGD on the margin, started anew, does not break the image at {f:g} × eps.")
        for f in (0.25, 0.5, 1.0, 2.0, 4.0)
    },
    "e2_robust": Number("PGD from the image itself does not break it with the whole box as its ball."),
    "b1_random": Number("One of 100 random points breaks the surviving image."),
    "b5_on_grid": Number("A point on the grid of stored pixel values breaks the surviving image."),
    "b4_decision": Number("A decision-based search breaks the surviving image."),
    "t1_found": Number("PGD finds the example that was planted behind a new last layer; missing where none could be."),
    "t1_random": Number("One of 100 random points is such an example."),
    "t1_features": Number("Features of the last fully connected layer; 0 without one that decides."),
    "r1_verdict_changed": Number("A randomised model is right by one set of draws and wrong by another."),
    "r1_batch_difference": Number("Largest difference of a mean probability, the image alone and among others."),
    "r2_more_draws": Number("PGD with four times the draws per gradient breaks the surviving image."),
    "r2_held_draws": Number("PGD on draws that are held breaks the surviving image."),
    "r3_agreement": Number("Cosine between the margin's gradients over two sets of draws."),
    "d1_autograd_calls": Number("Runs of autograd inside one forward pass."),
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
            formula=number.formula,
            source=source,
            role="trust",
            params={"norm": norm, "check": name.partition("_")[0].upper(), "number": name},
            shown=False,
        )
        for name, number in NUMBERS.items()
    }
