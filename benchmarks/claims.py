"""The paper's claims, checked on a board of data that the paper says nothing about, as on a board of its own data.

    python -m benchmarks.claims --out results/digits

One line per condition: its value with the interval, seed by seed, and whether it holds. What such a board decides is
whether a claim carries over to its data, networks and recipe, not whether the paper's numbers are right.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from bench.reports.board import build
from bench.reports.board.model import Board
from bench.reports.claims import verdicts
from bench.reports.claims.records import Claim
from bench.store.store import Store


def claims_on(board: Board, dataset: str) -> tuple[Claim, ...]:
    """Return the claims about a data set, checked on a board of whatever data.

    Args:
        board: what was measured.
        dataset: of the claims in reports/claims/claims.toml.
    """
    suite = board.plan.suite.model_copy(update={"dataset": dataset})
    found = verdicts.check(replace(board, plan=board.plan.model_copy(update={"suite": suite})))
    return () if found is None else found.claims


def lines(claims: tuple[Claim, ...]) -> Iterator[str]:
    """Yield the verdict of each claim, and below it each condition with its values by seed."""
    for claim in claims:
        yield f"{claim.id}: {claim.verdict}, {claim.explanation}"
        for condition in claim.conditions:
            held = {seed: {True: "holds", False: "fails", None: "open"}[h] for seed, h in condition.by_seed.items()}
            values = "; ".join(f"seed {seed} {held.get(seed, '')}: {text}" for seed, text in condition.numbers.items())
            yield f"    {condition.text}: {values or condition.missing}"


def main() -> None:
    """Print the claims, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="a result folder")
    parser.add_argument("--dataset", default="cifar10", help="data set whose claims are checked")
    parser.add_argument("--json", type=Path, help="file for the claims")
    options = parser.parse_args()
    with Store.open(options.out) as store:
        claims = claims_on(build.build(store), options.dataset)
    print("\n".join(lines(claims)))
    if options.json:
        options.json.write_text(json.dumps([asdict(claim) for claim in claims], indent=2) + "\n")


if __name__ == "__main__":
    main()
