"""Certified l2 radii of a model that votes over Gaussian noise (randomised smoothing)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Final

import numpy as np
import torch
from scipy.special import betaincinv, ndtri
from torch import Tensor, nn

from bench.attacks.core.draws import RandomisedModel
from bench.core.decorators import evaluation
from bench.core.ranges import Ge, Gt
from bench.core.records import Column

SOURCE: Final = "Cohen, Rosenfeld, Kolter 2019, algorithm CERTIFY and theorem 1 (docs/trust.md)"
ALPHA: Final = 0.001  # probability that a certificate is wrong, the paper's
SELECTION, ESTIMATION = 1 << 20, 2 << 20  # added to the seed: the draws that choose the class, and those that count it

COLUMNS: Final = {
    "smoothed_radius": Column(
        "No perturbation below this l2 norm changes the smoothed prediction, with probability 1 − alpha over the draws "
        "that prove it; 0 where it is wrong or where it abstains",
        direction="higher",
        role="certified",
        params={"norm": "l2", "of": "expectation", "alpha": ALPHA},
        formula="σ Φ⁻¹(p), p the lower Clopper-Pearson limit of the share of votes",
        source=SOURCE,
    ),
    "smoothed_judged_radius": Column(
        "Below this l2 norm the judge, who takes a finite number of votes, agrees as well, with probability 1 − alpha",
        direction="higher",
        role="certified",
        params={"norm": "l2", "of": "votes", "alpha": ALPHA},
        formula="smoothed_radius − σ Φ⁻¹(1/2 + √(ln(1/alpha) / 2 votes)), 0 at least",
        source="Hoeffding's inequality (docs/trust.md)",
        shown=False,
    ),
    "smoothed_abstained": Column(
        "No class has certainly more than half of the votes.", kind="flag", aggregate="fraction", source=SOURCE
    ),
    "smoothed_certified_l2_{eps}": Column(
        "Proved right within eps (l2), with probability 1 − alpha.",
        kind="flag",
        board="smoothed_certified_l2_{eps}",
        aggregate="fraction",
        direction="higher",
        formula="smoothed_radius ≥ eps",
        source=SOURCE,
        role="certified",
        params={"norm": "l2", "alpha": ALPHA},
        interval="wilson",
    ),
    "smoothed_not_applicable": Column(
        "Why there is no certificate", kind="text", role="not_applicable", heading="The smoothed certificate"
    ),
}


@evaluation(source=SOURCE, columns=COLUMNS, version=2, chunk=100, tracks=("randomised",))
def smoothed_certificate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    eps: Sequence[Annotated[float, Gt(0)]] = (0.25, 0.5),
    draws: Annotated[int, Ge(1)] = 1000,
    selection_draws: Annotated[int, Ge(1)] = 100,
) -> dict[str, Tensor | list[str]]:
    """Certify an l2 radius for every image from votes over Gaussian noise.

    `selection_draws` votes choose a class, `draws` fresh ones count it; p is the one-sided Clopper-Pearson limit of its
    share at level 1 − alpha. With p > 1/2 the smoothed classifier is constant within σ Φ⁻¹(p); else it abstains.

    Claim: for each image, with probability 1 − alpha over these draws, no x' with ‖x' − x‖₂ < `smoothed_radius` has
    another smoothed class than x. Holds when: all that is random is N(0, σ²I) added to the image, which the network
    declares by its attribute `smoothing_sigma`. Measured by: independent draws that belong to the image; the limit
    errs low. Tolerance: none; of n images n·alpha certificates may be wrong, and the check C1 allows for that. With
    1,000 draws the largest radius is 2.46 σ.

    Args:
        model: randomised; `bench.attacks.core.draws`.
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        seed: of the draws.
        eps: l2 radii at which the certified accuracy is shown.
        draws: votes that count the class; the paper's 100,000 prove larger radii.
        selection_draws: votes that choose it, the paper's 100.

    Returns:
        Column → (B,), or B strings; NaN and the reason where the network declares no `smoothing_sigma`.
    """
    sigma = getattr(model.network, "smoothing_sigma", None) if isinstance(model, RandomisedModel) else None
    if not isinstance(model, RandomisedModel) or not isinstance(sigma, float | int):
        return _not_applicable(y, eps)
    first, _ = model.vote(x, selection_draws, seed + SELECTION)
    chosen = first.argmax(1)
    counts, _ = model.vote(x, draws, seed + ESTIMATION)
    hits = counts.gather(1, chosen[:, None])[:, 0].double().cpu().numpy()
    radius = torch.tensor(certified_radius(hits, draws, ALPHA, sigma), device=x.device)
    proved = torch.where(chosen == y, radius, 0.0)
    judged = (proved - vote_margin(model.votes, ALPHA, sigma)).clamp_min(0)
    return {
        "smoothed_radius": proved,
        "smoothed_judged_radius": judged,
        "smoothed_abstained": radius == 0,
        **{f"smoothed_certified_l2_{e:g}": proved >= e for e in eps},
        "smoothed_not_applicable": [""] * len(y),
    }


def certified_radius(hits: np.ndarray, draws: int, alpha: float, sigma: float) -> np.ndarray:
    """Return σ Φ⁻¹(p), p the lower one-sided Clopper-Pearson limit of a share of votes; 0 where p ≤ 1/2, (B,).

    Args:
        hits: votes for the class, (B,).
        draws: of so many.
        alpha: probability that the limit lies above the true probability.
        sigma: standard deviation of the noise.
    """
    limit = betaincinv(np.maximum(hits, 1), draws - hits + 1, alpha)
    return np.where((hits > 0) & (limit > 0.5), sigma * ndtri(np.clip(limit, 0.5, None)), 0.0)


def vote_margin(votes: int, alpha: float, sigma: float) -> float:
    """Return how far inside a certified radius a finite vote is right too, with probability 1 − alpha.

    At distance d the class has a probability of at least Φ((R − d)/σ), and of `votes` draws less than half decide for
    it with probability exp(−2·votes·(p − 1/2)²) at most (Hoeffding). Infinite where too few votes prove nothing.

    Args:
        votes: behind a decision.
        alpha: probability of a wrong one.
        sigma: standard deviation of the noise.
    """
    needed = 0.5 + math.sqrt(math.log(1 / alpha) / (2 * votes))
    return sigma * float(ndtri(needed)) if needed < 1 else math.inf


def _not_applicable(y: Tensor, eps: Sequence[float]) -> dict[str, Tensor | list[str]]:
    """Return the columns of a model whose noise is not known to be Gaussian: nothing is proved."""
    missing = torch.full((len(y),), torch.nan, dtype=torch.float64, device=y.device)
    unproved = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    return {
        "smoothed_radius": missing,
        "smoothed_judged_radius": missing,
        "smoothed_abstained": ~unproved,
        **{f"smoothed_certified_l2_{e:g}": unproved for e in eps},
        "smoothed_not_applicable": ["the network does not declare Gaussian noise by an attribute smoothing_sigma"]
        * len(y),
    }
