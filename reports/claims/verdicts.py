"""The paper's numbers and claims, checked on a board: published against measured, and a verdict per claim.

Verdicts are about the trained models at hand: every condition is decided seed by seed, with an interval over images,
and a claim is "reproduced on 2 of 2 seeds". A condition holds if its whole interval satisfies it, fails if its whole
interval fails it, and is undecided otherwise; the intervals of a claim hold together with 95 %. What was not measured,
seeds that failed among it, is said, never assumed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, TypeAlias

import numpy as np

from bench.core.stats.intervals import ALPHA
from bench.reports import formatting
from bench.reports.board.estimates import Estimates
from bench.reports.board.model import Board
from bench.reports.claims.conditions import KINDS, decide
from bench.reports.claims.records import Claim, Claims, ClaimVerdict, Condition, Published, PublishedTable

Facts: TypeAlias = Mapping[str, Any]  # one table of claims.toml
COST_NOISE = 0.05  # of a ratio of training times


def check(board: Board) -> Claims | None:
    """Return the paper's claims checked on a board; None where the paper says nothing about its data."""
    facts = tomllib.loads(resources.files("bench.reports.claims").joinpath("claims.toml").read_text(encoding="utf-8"))
    name = board.plan.suite.dataset
    tables = [t for t in facts["table"] if t["dataset"] == name]
    claims = [c for c in facts["claim"] if name in c["datasets"]]
    if not tables and not claims:
        return None
    notes = [(note["about"], note["text"]) for note in facts["footnote"]]
    measured = Estimates(board)
    return Claims(
        paper=facts["paper"],
        deviations=_deviations(board, facts["paper"]),
        tables=tuple(_table(measured, table) for table in tables),
        claims=tuple(_claim(measured, claim, notes, tables, board.plan.data.test.total) for claim in claims),
        footnotes=() if name in facts["paper"].get("untold", ()) else tuple(notes),
    )


def _deviations(board: Board, paper: Facts) -> tuple[str, ...]:
    """Return what the run does otherwise than the paper."""
    rows, data, wanted = board.plan.rows, board.plan.data, board.plan.suite.dataset
    other = [f"data {data.name} instead of {wanted}"] if data.name != wanted else []
    if wanted in paper.get("untold", ()):
        return tuple(other)
    epochs = {r.recipe.get("epochs") for r in rows} - {paper["epochs"]}
    backbones = {r.backbone for r in rows} - {paper["backbone"]}
    lines = [f"{e} epochs instead of {paper['epochs']}" for e in sorted(epochs, key=str)]
    lines += [f"backbone {b} instead of {paper['backbone']}" for b in sorted(backbones)]
    told = ("epochs", "backbone", "defenses", "evaluations", "seeds")
    lines += [f"{key} = {value}" for key, value in sorted(board.plan.overrides.items()) if key not in told]
    return (*other, *lines)


# Published tables


def _table(measured: Estimates, table: Facts) -> PublishedTable:
    """Return a published table beside ours."""
    compare = {"discrepancy": _discrepancies, "cost": _costs}.get(table.get("kind", ""), _means)
    numbers = []
    for defense, row in table["rows"].items():
        for column, scale, entry in zip(table["columns"], table["scale"], row, strict=True):
            spread = entry[1] if len(entry) > 1 else None
            by_seed, ends = compare(measured, defense, column)
            by_seed = {seed: scale * value for seed, value in by_seed.items()}
            ends = None if ends is None else (scale * ends[0], scale * ends[1])
            n = measured.images(defense, column) if by_seed else 0
            numbers.append(_published(defense, column, (entry[0], spread), by_seed, ends, n))
    return PublishedTable(table["title"], table["source"], table["note"], tuple(table["columns"]), tuple(numbers))


def _published(
    defense: str,
    column: str,
    entry: tuple[float, float | None],
    by_seed: dict[int, float],
    ends: tuple[float, float] | None,
    n: int,
) -> Published:
    published, spread = entry
    value = float(np.mean(list(by_seed.values()))) if by_seed else None
    low, high = ends or (None, None)
    slack = 2 * (spread or 0.0)
    agrees = None if ends is None else ends[0] <= published + slack and ends[1] >= published - slack
    return Published(defense, column, published, spread, value, low, high, by_seed, agrees, n)


_Ours = tuple[dict[int, float], tuple[float, float] | None]


def _means(measured: Estimates, defense: str, column: str) -> _Ours:
    return measured.mean(defense, column)


def _discrepancies(measured: Estimates, defense: str, column: str) -> _Ours:
    """Return (test − train)/train of a column per seed, and the hull of the seeds' intervals."""
    found = {s: d for s in measured.seeds(defense) if (d := measured.discrepancy(defense, s, column))}
    if not found:
        return {}, None
    ends = (min(d.low for d in found.values()), max(d.high for d in found.values()))
    return {seed: d.value for seed, d in found.items()}, ends


def _costs(measured: Estimates, defense: str, column: str) -> _Ours:
    """Return the training time relative to Standard's, per seed, none in doubt; it has no interval over images."""
    cost = measured.cost(defense, "standard")
    return ({} if cost.doubt else cost.by_seed), None


# Claims


def _claim(measured: Estimates, claim: Facts, notes: list[tuple[str, str]], tables: list[Facts], total: int) -> Claim:
    """Check a claim; each interval is corrected for the number of its conditions (Bonferroni)."""
    stated = [facts for written in claim["conditions"] for facts in _expanded(measured, written)]
    alpha = ALPHA / max(1, sum(facts["kind"] in KINDS for facts in stated))
    conditions = tuple(_condition(measured, facts, alpha, tables) for facts in stated)
    verdict, explanation = judge(conditions)
    if verdict == "undecided":
        explanation += _would_decide(conditions, total)
    footnotes = tuple(text for about, text in notes if about == claim["id"])
    return Claim(claim["id"], claim["title"], claim["source"], conditions, verdict, explanation, footnotes, 1 - alpha)


def _would_decide(conditions: tuple[Condition, ...], total: int) -> str:
    """Say how many images would decide what these do not; "" where no condition waits for images."""
    open_ = [c.needed.get(seed) for c in conditions for seed, held in c.by_seed.items() if held is None]
    needed = [n for n in open_ if n is not None]
    if not needed:
        return ""
    more = f", the test set has {total:,}" if max(needed) > total else ""
    return f"; {max(needed):,} images would decide what is undecided{more}"


def judge(conditions: tuple[Condition, ...]) -> tuple[ClaimVerdict, str]:
    """Return the verdict on a claim and its reason, e.g. ("reproduced", "reproduced on 2 of 2 seeds").

    On a seed the claim holds if all conditions do and fails if one does. It is reproduced if it holds on all
    seeds, not reproduced if it fails on all, undecided otherwise or where something was not measured.
    """
    missing = list(dict.fromkeys(c.missing for c in conditions if c.missing))
    seeds = set().union(*(c.by_seed for c in conditions))
    failed = sum(any(c.by_seed.get(s) is False for c in conditions) for s in seeds)
    if seeds and failed == len(seeds):
        return "not reproduced", f"fails on {failed} of {len(seeds)} seeds"
    if missing or not seeds:
        return "undecided", "not measured: " + ("; ".join(missing) or "no model has all of it")
    held = sum(all(c.by_seed.get(s) is True for c in conditions) for s in seeds)
    if held == len(seeds):
        return "reproduced", f"reproduced on {held} of {len(seeds)} seeds"
    rest = len(seeds) - held - failed
    return "undecided", f"holds on {held}, fails on {failed}, undecided on {rest} of {len(seeds)} seeds"


def _expanded(measured: Estimates, facts: Facts) -> Iterator[Facts]:
    """Yield a condition; one with a {placeholder} in its column becomes one per matching column."""
    column = facts.get("column", "")
    names = measured.columns(column) if "{" in column else []
    yield from ({**facts, "column": name} for name in names or [column])


def _condition(measured: Estimates, facts: Facts, alpha: float, tables: list[Facts]) -> Condition:
    defenses = [facts[side] for side in ("left", "right") if side in facts]
    words = KINDS[facts["kind"]].words if facts["kind"] in KINDS else _CHEAPER
    text, what = words.format(**facts), f"{facts.get('column') or 'training time'} of {formatting.listing(defenses)}"
    by_seed: dict[int, bool | None] = {}
    numbers, images, needed = dict[int, str](), dict[int, int](), dict[int, int]()
    for seed in measured.seeds(*defenses):
        if facts["kind"] not in KINDS:
            cost = _cheaper(measured, facts, seed)
            if cost is not None:
                by_seed[seed], numbers[seed] = cost
        elif (found := decide(measured, facts, seed, alpha, tables)) is not None:
            by_seed[seed], images[seed] = found.holds, found.estimate.n
            value, *ends = (
                formatting.number(v) for v in (found.estimate.value, found.estimate.low, found.estimate.high)
            )
            numbers[seed] = f"{value} [{ends[0]}, {ends[1]}]"
            needed |= {} if found.needed is None else {seed: found.needed}
    lacking = [seed for seed in measured.planned(*defenses) if seed not in by_seed]
    missing = what if not by_seed else f"{what} with {_seeds(lacking)}" if lacking else ""
    return Condition(text, by_seed | dict.fromkeys(lacking if by_seed else (), None), numbers, missing, images, needed)


def _seeds(seeds: list[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {formatting.listing([str(seed) for seed in seeds])}"


_CHEAPER = "training time of {left} ≤ {ratio:g} × that of {right}, within 5 %"


def _cheaper(measured: Estimates, facts: Facts, seed: int) -> tuple[bool | None, str] | None:
    """Decide a ratio of training times; what exceeds the claimed one by the noise of a clock still holds.

    Returns:
        Whether it holds, None where the times are in doubt, and the ratio in words; None without times.
    """
    cost = measured.cost(facts["left"], facts["right"])
    ratio = cost.by_seed.get(seed)
    if ratio is None:
        return None
    if cost.doubt:
        return None, f"{formatting.number(ratio)}, not believed: {cost.doubt}"
    return ratio <= facts["ratio"] * (1 + COST_NOISE), formatting.number(ratio)
