"""Examine exhibits: what the model contract, the attacks and the trust checks make of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import pandas as pd
import torch
from torch import Tensor, nn

from bench.api.tables import evaluate
from bench.attacks.core.adaptive import adaptive
from bench.core.errors import BenchError
from bench.core.records import Adaptive, ThreatModel
from bench.core.torch_state import known_state
from bench.measuring.judge import judge
from bench.measuring.model_contract import checked_eval
from bench.museum.exhibit import Exhibit
from bench.museum.networks import Networks
from bench.trust.museum import Finding

IMAGES: Final = 64
THREAT: Final = ThreatModel("l2", 0.5)
EVALUATIONS: Final = ("accuracy", "pgd_l2", "autoattack_l2", "trust")
SEED: Final = 0


@dataclass(frozen=True, slots=True)
class _Trust:
    """What the trust evaluation said.

    Attributes:
        grade: "A", "B", "C" or "INVALID".
        verdicts: by name of the check.
        words: of the failed checks.
    """

    grade: str
    verdicts: Mapping[str, str]
    words: Mapping[str, str]


def examine_all(
    exhibits: Iterable[Exhibit],
    networks: Networks,
    *,
    images: int = IMAGES,
    report_progress: Callable[[str], None] = lambda line: None,
) -> tuple[Finding, ...]:
    """Examine exhibits one after the other.

    Args:
        exhibits: what to examine.
        networks: trains them.
        images: test images per exhibit.
        report_progress: is given one line per exhibit.

    Returns:
        One finding per exhibit; those whose data are not there are skipped, with the reason.
    """
    found = []
    for exhibit in exhibits:
        found.append(examine(exhibit, networks, images=images))
        last = found[-1]
        report_progress(f"{last.exhibit}: {last.outcome}, {last.seconds:.0f} s")
    return tuple(found)


def examine(exhibit: Exhibit, networks: Networks, *, images: int = IMAGES) -> Finding:
    """Build one exhibit, evaluate it as `bench.evaluate` does for anyone, and run its adaptive attack.

    Args:
        exhibit: what to examine.
        networks: trains it.
        images: first test images of its data set.

    Returns:
        What was seen.
    """
    finding = Finding(exhibit.name, exhibit.kind, exhibit.idea, exhibit.source, exhibit.seen_by)
    if missing := networks.missing(exhibit.data):
        return replace(finding, skipped=missing)
    started = time.process_time()
    model = exhibit.build(networks)
    x, y = networks.images(exhibit.data, images)
    finding = replace(finding, images=len(y))
    try:
        table = evaluate(model, data=(x, y), evaluations=EVALUATIONS, eps=THREAT.eps, seed=SEED)
    except BenchError as error:
        finding = replace(finding, refused=" ".join(str(error).split()))
        table = None
    else:
        trust = _trust(table)
        finding = replace(
            finding,
            clean=float(table["clean_correct"].mean()),
            robust=float(_robust(table).float().mean()),
            grade=trust.grade,
            verdicts=trust.verdicts,
            words=trust.words,
        )
    if exhibit.adaptive is not None:
        left = _adaptive(exhibit.build(networks), x, y, exhibit.adaptive)
        if table is not None:
            left &= _robust(table)
        finding = replace(finding, adaptive=float(left.float().mean()))
    return replace(finding, seconds=time.process_time() - started)


def _robust(table: pd.DataFrame) -> Tensor:
    return torch.tensor(table[f"autoattack_{THREAT.norm}_{THREAT.eps:g}_robust"].to_numpy(bool))


def _adaptive(model: nn.Module, x: Tensor, y: Tensor, declaration: Adaptive) -> Tensor:
    """Return which images (B,) the declared attack leaves correctly classified, as the judge sees it."""
    with known_state(), checked_eval(model):
        clean = model(x).argmax(1) == y
        proposed = adaptive(model, x, y, eps=THREAT.eps, norm=THREAT.norm, seed=SEED, declaration=declaration)
        return clean & ~judge(model, x, y, proposed, eps=THREAT.eps, norm=THREAT.norm).broken


def _trust(table: pd.DataFrame) -> _Trust:
    found = table.attrs["trust"]
    checks = found["checks"]
    return _Trust(
        found["grade"],
        {name: check["verdict"] for name, check in checks.items()},
        {name: check["words"] for name, check in checks.items() if check["verdict"] == "fail"},
    )
