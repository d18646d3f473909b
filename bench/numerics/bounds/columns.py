"""The columns of the `bounds` evaluation: names, words and formulas."""

from __future__ import annotations

from typing import Final

from bench.core.records import Column, Role
from bench.numerics.engine_check import fast_engine_column

PAPER = "Srinivas et al. 2022"
OURS = "docs/theory.md"
COMPOSED = "after Entesari, Sharifi, Fazlyab 2024 (docs/theory.md, section 6)"
SIDES = {"": "a random direction", "_worst": "the Hessian's top eigenvector, on the side where the loss rises"}

VERDICTS = {
    "bound_violations": Column(
        "Statements that must hold and do not, in number; missing where none applies",
        kind="count",
        board="bound_violations",
        aggregate="sum",
        direction="lower",
        source=OURS,
        role="violations",
    ),
    "bounds_undecided": Column(
        "Statements that fail on a grid that still moved at the largest number of nodes, and segments whose gradient "
        "and Hessian do not fit together (self-check above 5 %)",
        kind="count",
        source=OURS,
        role="undecided",
    ),
    "bounds_applicable": Column("The model is twice differentiable as far as its graph shows", kind="flag"),
    "bounds_not_applicable": Column(
        "Why nothing can be asserted: the operations with kinks", kind="text", role="not_applicable", heading="Bounds"
    ),
    "bounds_fast_engine": fast_engine_column(),
    "bound_violation": Column(
        "The first violation: which, at which radius, both sides, tolerance", kind="text", role="violation"
    ),
    "bounds_nodes": Column("Nodes of the most refined segment", kind="count"),
    "bounds_unsettled": Column(
        "Segments whose grid still moved at the largest number of nodes: their tightness is unreliable", kind="count"
    ),
    "fundamental_theorem_error": Column(
        "Self-check, largest over the segments: gradient change against the integrated Hessian",
        formula="‖∇f(x+ε) − ∇f(x) − ∫∇²f ε ds‖ / Σ‖Δ∇f‖",
        source=OURS,
    ),
}

_SEGMENT = {
    "tightness_gradient": (
        "Proposition 1, sharp form",
        "measured over bound",
        "‖Δ∇f‖ / (‖∇f‖(e^A − 1)), A = ∫C along ε",
        f"{PAPER}, Proposition 1, sharpened",
    ),
    "tightness_gradient_printed": (
        "Proposition 1 as printed, with the largest C of the segment",
        "measured over bound",
        "‖Δ∇f‖ / (‖∇f‖·t·e^t), t = ‖ε‖·max C",
        f"{PAPER}, Proposition 1",
    ),
    "tightness_loss": (
        "Proposition 2, sharp form",
        "measured over bound",
        "|Δf| / (‖ε‖‖∇f‖∫e^{A(s)}ds)",
        f"{PAPER}, Proposition 2, sharpened",
    ),
    "tightness_loss_printed": (
        "Proposition 2 as printed, with the largest C of the segment",
        "measured over bound",
        "|Δf| / (‖ε‖‖∇f‖(1 + t·e^t)), t = ‖ε‖·max C",
        f"{PAPER}, Proposition 2",
    ),
    "tightness_remainder": (
        "First-order Taylor remainder, corrected form",
        "measured over bound",
        "|f(x+ε) − f(x) − ∇fᵀε| / (‖ε‖‖∇f‖∫(e^{A(s)} − 1)ds)",
        f"{PAPER}, eq. (1), corrected",
    ),
    "ratio_quadratic_gradient": (
        "Proposition 1's approximation with the curvature at the image",
        "violated above 1",
        "‖Δ∇f‖ / (‖ε‖·C_f(x)·‖∇f‖)",
        f"{PAPER}, Proposition 1",
    ),
    "ratio_quadratic_loss": (
        "Proposition 2's approximation with the curvature at the image",
        "violated above 1",
        "|Δf| / (‖ε‖‖∇f‖(1 + ‖ε‖·C_f(x)))",
        f"{PAPER}, Proposition 2",
    ),
    "ratio_taylor_printed": (
        "Equation (1) as printed (its powers of ‖ε‖ do not match)",
        "violated above 1",
        "|f(x+ε) − f(x) − ∇fᵀε| / (½·max C·‖ε‖·‖∇f‖)",
        f"{PAPER}, eq. (1)",
    ),
}

DIRECTIONS = {"": "random", "_worst": "worst"}  # end of the name to the direction of the perturbation
_ROLES: Final[dict[str, Role]] = {"measured over bound": "tightness", "violated above 1": "rate"}

SEGMENTS = {
    f"{name}_{{radius}}{side}": Column(
        f"{heading}: {meaning}; along {where}",
        formula=formula,
        source=source,
        role=_ROLES[meaning],
        params={"direction": DIRECTIONS[side]},
        heading=heading,
    )
    for name, (heading, meaning, formula, source) in _SEGMENT.items()
    for side, where in SIDES.items()
}

AT_THE_IMAGE = {
    "tightness_softmax": Column(
        "The softmax's curvature against the loss's error: measured over bound",
        formula="‖H_z‖ / (√2‖p − e_y‖)",
        source=OURS,
        role="tightness",
        heading="The softmax's curvature against the loss's error",
    ),
    "tightness_layer": Column(
        "The layer bound for the Hessian's top eigenvector u: measured over bound",
        formula="|uᵀ∇²f u| / uᵀMu, M = JᵀH_zJ + Σ J_iᵀ diag|d_i| J_i",
        source=OURS,
        role="tightness",
        heading="The layer bound for the Hessian's top eigenvector u",
    ),
    "tightness_layer_matrix": Column(
        "The layer bound's matrix",
        formula="‖∇²f‖ / λ_max(M)",
        source=OURS,
        role="tightness",
        heading="The layer bound's matrix",
    ),
    "tightness_layer_elementwise": Column(
        "The layer bound term by term",
        formula="‖∇²f‖ / (‖J‖²‖H_z‖ + Σ‖d_i‖_∞‖J_i‖²)",
        source=OURS,
        role="tightness",
        heading="The layer bound term by term",
    ),
    "tightness_layer_data_free": Column(
        "The layer bound from weights alone, the better of its two forms",
        formula="‖∇²f‖ / min(L²/2 + √2B, (√2L² + B)‖p − e_y‖), B = Σ(β_i/4)P_iN_i²",
        source=OURS,
        role="tightness",
        heading="The layer bound from weights alone, the better of its two forms",
    ),
    "tightness_jacobian": Column(
        "The Jacobian's Lipschitz constant, composed from weights alone, for the network's own curvature",
        formula="‖Σ_k q_k∇²z_k‖ / (c‖p − e_y‖)",
        source=COMPOSED,
        role="tightness",
        heading="The Jacobian's Lipschitz constant from weights alone",
    ),
    "tightness_jacobian_anchored": Column(
        "The Jacobian's Lipschitz constant from the image on, for the network's own curvature",
        formula="‖Σ_k q_k∇²z_k‖ / (c(x)‖p − e_y‖)",
        source=COMPOSED,
        role="tightness",
        heading="The Jacobian's Lipschitz constant, anchored at the image",
    ),
    "tightness_compositional": Column(
        "The compositional bound of the Hessian from weights alone",
        formula="‖∇²f‖ / (L²‖H_z‖ + c‖p − e_y‖)",
        source=COMPOSED,
        role="tightness",
        heading="The compositional bound from weights alone",
    ),
    "tightness_compositional_anchored": Column(
        "The compositional bound of the Hessian, anchored at the image",
        formula="‖∇²f‖ / (‖J‖²‖H_z‖ + c(x)‖p − e_y‖)",
        source=COMPOSED,
        role="tightness",
        heading="The compositional bound, anchored at the image",
    ),
    "curvature_share_loss": Column(
        "Share of the loss (softmax and cross-entropy) in uᵀ∇²f u, u the top eigenvector; shares add up to 1",
        formula="uᵀJᵀH_zJu / uᵀ∇²f u",
        source=OURS,
        role="share",
        heading="loss",
    ),
    "curvature_share_{layer}": Column(
        "Share of this activation (in the order of the forward pass) in uᵀ∇²f u, u the top eigenvector",
        formula="Σ_k d_ik(J_i u)_k² / uᵀ∇²f u",
        source=OURS,
        role="share",
        heading="activation",
    ),
    "ratio_theorem_1_pointwise": Column(
        "Theorem 1 as printed, pointwise form (false): violated above 1",
        formula="C_f / Σ n_i·C_{f_i}(x)·Π_{j≤i}‖J_j‖",
        source=f"{PAPER}, Theorem 1",
        role="rate",
        heading="Theorem 1 as printed, pointwise form (false)",
    ),
    "ratio_theorem_1_max": Column(
        "Theorem 1 as printed, max form (false): violated above 1",
        formula="C_f / Σ n_i·max C_{f_i}·Π_{j≤i} max‖J_j‖",
        source=f"{PAPER}, Theorem 1",
        role="rate",
        heading="Theorem 1 as printed, max form (false)",
    ),
    "ratio_lemma_1": Column(
        "Lemma 1's form as printed, layer by layer (false): violated above 1",
        formula="C_f / Σ C_{f_i}(x)·Π_{j≤i}‖J_j‖",
        source=f"{PAPER}, Lemma 1",
        role="rate",
        heading="Lemma 1's form as printed, layer by layer (false)",
    ),
}

COLUMNS = {**VERDICTS, **SEGMENTS, **AT_THE_IMAGE}
