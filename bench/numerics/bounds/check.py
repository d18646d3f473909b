"""Count the assertions that fail, image by image, and keep the first failure in words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.numerics.inequalities import Inequality


@dataclass
class BoundCheck:
    """Outcome of all assertions about a batch of B images.

    Attributes:
        violations: assertions that failed and were decided, (B,).
        undecided: assertions that failed on a grid that was still changing, (B,).
        first_violation: the first violation of every image in words, "" where there is none; B entries.
    """

    violations: Tensor
    undecided: Tensor
    first_violation: list[str]

    @classmethod
    def empty(cls, like: Tensor) -> BoundCheck:
        """Return the outcome before any assertion.

        Args:
            like: an integer tensor (B,), whose type and device the counts take.
        """
        return cls(torch.zeros_like(like), torch.zeros_like(like), [""] * len(like))

    def record(self, name: str, image: Tensor, claim: Inequality, decided: Tensor | None = None) -> None:
        """Count the failures of one assertion.

        Args:
            name: what is asserted, for the message.
            image: which image each entry of the claim is about, (N,).
            claim: left side, right side and tolerance, (N,) each.
            decided: False where a failure counts as undecided, (N,); None: all are decided.
        """
        fails = claim.violated
        violated = fails if decided is None else fails & decided
        self.violations.index_add_(0, image, violated.to(self.violations.dtype))
        self.undecided.index_add_(0, image, (fails & ~violated).to(self.undecided.dtype))
        for i in violated.nonzero().squeeze(1).tolist():
            row = int(image[i])
            self.first_violation[row] = self.first_violation[row] or (
                f"{name}: {float(claim.left[i]):.9g} > {float(claim.right[i]):.9g} "
                f"(tolerance {float(claim.tolerance[i]):.2g})"
            )
