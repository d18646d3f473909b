"""Hold the fast second-derivative engine against plain automatic differentiation, and do without it where they differ.

The engine (`bench.numerics.hvp_ops`) replaces calls of layers by hooks. A model may escape them in a way that leaves
the value right and the second derivative wrong: an activation whose forward was replaced, or whose β changes between
two calls. One Hessian-vector product per evaluated batch shows it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError
from bench.core.records import Column
from bench.measuring.memory import ran_out
from bench.numerics.derivatives import expand
from bench.numerics.hvp_ops import plain_autograd
from bench.numerics.vectors import norms, unit

PROBE_IMAGES: Final = 2
# Largest relative difference: rounding gives 1e-6, and some 1e-3 with softplus at β = 1000 in float32.
RTOL: Final = 0.02
ATOL: Final = 1e-5  # of the product, in gradient norms per pixel: below is rounding of a model without curvature


def fast_engine_column() -> Column:
    """Return the column that says which engine made an evaluation's second derivatives."""
    return Column(
        "Second derivatives come from the fast engine; no: from plain automatic differentiation, with which it "
        "disagreed on this model",
        kind="flag",
    )


@contextmanager
def checked_engine(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[bool]:
    """Let expansions inside the block use the fast engine if its product agrees with plain differentiation's.

    Else they use plain differentiation, slower by 2 to 4 times, and a warning says so.

    Args:
        model: logits (B, K) from images, in eval mode, in the dtype of x.
        x: images (B, C, H, W), of which the first two are tried.
        y: labels (B,).

    Yields:
        Whether the fast engine is used.

    Raises:
        BenchError: the model cannot be differentiated twice, a logit or gradient is not finite, or another dtype.
    """
    x, y = x[:PROBE_IMAGES], y[:PROBE_IMAGES]
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        problem = _disagreement(model, x, y)
    if problem:
        warnings.warn(
            f"model {type(model).__name__}: {problem} Plain automatic differentiation, which is slower, is used.",
            RuntimeWarning,
            stacklevel=3,
        )
    with plain_autograd() if problem else nullcontext():
        yield not problem


def _disagreement(model: nn.Module, x: Tensor, y: Tensor) -> str:
    """Return what differs between the fast engine and plain differentiation on images x (B, C, H, W); "" if nothing."""
    v = unit(torch.randn(x.flatten(1).shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype).to(x.device))
    try:
        with plain_autograd():
            expected = expand(model, x, y)
            product = expected.hvp(v)
    except BenchError:
        raise
    except Exception as error:  # a foreign model may raise anything
        if ran_out(error):
            raise
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise BenchError(
            f"model {type(model).__name__}: expected one that can be differentiated twice, got: {cause} "
            "Leave out torch.compile, reentrant checkpoints and in-place edits of saved values."
        ) from error
    try:
        found = expand(model, x, y)
        difference = norms(found.hvp(v) - product)
    except Exception as error:  # as above
        if ran_out(error):
            raise
        return f"the fast second derivatives fail ({(str(error).splitlines() or [type(error).__name__])[0]})."
    size = norms(expected.gradient)
    limit = RTOL * norms(product) + ATOL * size
    if (difference > limit).any() or (norms(found.gradient - expected.gradient) > RTOL * size).any():
        return "the fast second derivatives differ from plain automatic differentiation's."
    return ""
