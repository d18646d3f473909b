"""The official AutoAttack (package pyautoattack 0.2) and its members, called as ours are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.attacks.core.isolation import checked, isolated, quiet_import

STAGES: Final = {"standard": ("apgd-ce", "apgd-t", "fab-t", "square"), "rand": ("apgd-ce", "apgd-dlr")}


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    version: str = "standard",
    queries: int = 5000,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Return the official AutoAttack's points, images (B, C, H, W), labels (B,); the clean image where robust.

    Its traps: seed None reseeds from the clock and changes the global generators; its saved state never restores
    (none is used); `check_dynamic` removes the debugger and counts calls for ever; with fewer than 10 classes, 9
    targets end in IndexError, so K − 1 are asked for, and with 3 or fewer, for which it has no targeted DLR loss,
    apgd-t is left out; FAB fills `p.grad`; Square shares its windows across the batch.

    Args:
        version: "standard" or "rand".
        queries: of Square; the package's own number is 5,000.
        trace: is given `broken_by`, a list of B strings, as by our `autoattack`.

    Raises:
        ValueError: unknown norm or version, or Square-l2 on images under 5 pixels high.
    """
    if version not in STAGES:
        raise ValueError(f"pyautoattack: expected a version among {list(STAGES)}, got {version!r}. Choose one.")
    return _run(model, x, y, STAGES[version], eps, norm, seed, version, queries, trace)


def apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", seed: int = 0, loss: str = "ce"
) -> Tensor:
    """Return the points of the official APGD with loss "ce", "dlr" or "targeted" (needs 4 classes)."""
    return _run(model, x, y, (f"apgd-{loss.replace('targeted', 't')}",), eps, norm, seed)


def fab(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", seed: int = 0) -> Tensor:
    """Return the points of the official targeted FAB."""
    return _run(model, x, y, ("fab-t",), eps, norm, seed)


def square(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", seed: int = 0, queries: int = 5000
) -> Tensor:
    """Return the points of the official Square attack."""
    return _run(model, x, y, ("square",), eps, norm, seed, queries=queries)


def _run(
    model: nn.Module, x: Tensor, y: Tensor, stages: tuple[str, ...], eps: float, norm: str, seed: int,
    version: str = "standard", queries: int = 5000, trace: dict[str, Any] | None = None,
) -> Tensor:  # fmt: skip
    """Run the stages one by one on what is left, as the package does, and note which stage broke what."""
    checked("pyautoattack", norm)
    if "square" in stages and norm == "l2" and x.shape[2] < 5:
        raise ValueError(
            f"pyautoattack: expected images of at least 5 rows for Square-l2, got {x.shape[2]}. Use norm='linf'."
        )
    with quiet_import():
        from pyautoattack import AutoAttack
        from pyautoattack.checks import funcs

    with isolated(model, x, seed), _silent(logging.getLogger("auto-attack")), torch.no_grad():
        clean = model(x)
        robust = clean.argmax(1) == y
        official = AutoAttack(
            model, eps=eps, norm={"l2": "L2", "linf": "Linf"}[norm], seed=seed, device=x.device, version=version
        )
        classes = clean.shape[1]
        official.square.n_queries = queries
        official.fab.n_target_classes = official.apgd_targeted.n_target_classes = min(9, classes - 1)
        found, by = x.clone(), ["" if ok else "clean" for ok in robust.tolist()]
        for stage in stages:
            rows = robust.nonzero()[:, 0]
            if not len(rows) or (stage == "apgd-t" and classes <= 3) or (stage == "apgd-dlr" and classes <= 2):
                continue
            funcs.update(dict.fromkeys(funcs, 0))
            official.attacks_to_run = [stage]
            points, answers = official.run_standard_evaluation(x[rows].clone(), y[rows], batch_size=len(rows))
            hit = rows[answers != y[rows]]
            found[hit], robust[hit] = points[answers != y[rows]], False
            for row in hit.tolist():
                by[row] = stage
    if trace is not None:
        trace["broken_by"] = by
    return found


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Keep the package's warnings off the terminal; our own checks say what they would."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
