"""The official AutoAttack (package pyautoattack 0.2) and its members, called as ours are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core.isolation import checked, isolated, quiet_import
from bench.attacks.core.trace import Trace

STAGES: Final = {"standard": ("apgd-ce", "apgd-t", "fab-t", "square"), "rand": ("apgd-ce", "apgd-dlr")}
N_QUERIES: Final = 5000  # the package's own number


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    version: str = "standard",
    n_queries: int = N_QUERIES,
    trace: Trace | None = None,
) -> Tensor:
    """Return the official AutoAttack's points, (B, C, H, W); the clean image where robust.

    Its traps: seed None reseeds from the clock and changes the global generators; its saved state never restores
    (none is used); `check_dynamic` removes the debugger and counts calls for ever; with fewer than 10 classes, 9
    targets end in IndexError, so K − 1 are asked for, and with 3 or fewer, for which it has no targeted DLR loss,
    apgd-t is left out; FAB fills `p.grad`; Square shares its windows across the batch.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the package's own draws, which belong to the batch.
        version: "standard" or "rand".
        n_queries: of Square.
        trace: receives `broken_by`, a list of B strings, as from our `autoattack`.

    Raises:
        ValueError: unknown norm or version, or Square-l2 on images under 5 pixels high.
    """
    if version not in STAGES:
        raise ValueError(f"pyautoattack: expected a version among {list(STAGES)}, got {version!r}. Choose one.")
    x_adv, broken_by = _run(
        model, x, y, STAGES[version], eps=eps, norm=norm, seed=seed, version=version, n_queries=n_queries
    )
    if trace is not None:
        trace["broken_by"] = broken_by
    return x_adv


def apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", seed: int = 0, loss: str = "ce"
) -> Tensor:
    """Return the points of the official APGD with loss "ce", "dlr" or "targeted" (needs 4 classes)."""
    return _run(model, x, y, (f"apgd-{loss.replace('targeted', 't')}",), eps=eps, norm=norm, seed=seed)[0]


def fab(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", seed: int = 0) -> Tensor:
    """Return the points of the official targeted FAB."""
    return _run(model, x, y, ("fab-t",), eps=eps, norm=norm, seed=seed)[0]


def square(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", seed: int = 0, n_queries: int = N_QUERIES
) -> Tensor:
    """Return the points of the official Square attack.

    Its trap: a window smaller than the image never reaches the last row or column, so that 15 of the 64 pixels of an
    8×8 image stay as the start has them, up to scale.
    """
    return _run(model, x, y, ("square",), eps=eps, norm=norm, seed=seed, n_queries=n_queries)[0]


def _run(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    stages: tuple[str, ...],
    *,
    eps: float,
    norm: str,
    seed: int,
    version: str = "standard",
    n_queries: int = N_QUERIES,
) -> tuple[Tensor, list[str]]:
    """Run the stages one by one on what is left, as the package does; return points and the stage that broke each."""
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
        official.square.n_queries = n_queries
        official.fab.n_target_classes = official.apgd_targeted.n_target_classes = min(9, classes - 1)
        x_adv, broken_by = x.clone(), ["" if ok else "clean" for ok in robust.tolist()]
        for stage in stages:
            rows = robust.nonzero()[:, 0]
            if not len(rows) or (stage == "apgd-t" and classes <= 3) or (stage == "apgd-dlr" and classes <= 2):
                continue
            funcs.update(dict.fromkeys(funcs, 0))
            official.attacks_to_run = [stage]
            points, answers = official.run_standard_evaluation(x[rows].clone(), y[rows], batch_size=len(rows))
            hit = rows[answers != y[rows]]
            x_adv[hit], robust[hit] = points[answers != y[rows]], False
            for row in hit.tolist():
                broken_by[row] = stage
    return x_adv, broken_by


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Keep the package's warnings off the terminal; our own checks cover what they say."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
