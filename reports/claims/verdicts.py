"""The paper's numbers and claims, checked on a board: published against measured, and a verdict per claim.

Verdicts are about the trained models at hand: every condition is decided seed by seed, with a 95 % interval over
test images, and a claim is "reproduced on 2 of 2 seeds". What the images cannot decide is undecided; what was not
measured is said, never assumed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any, TypeAlias

import numpy as np

from bench.reports import formatting
from bench.reports.board.estimates import Estimates
from bench.reports.board.model import Board
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
        claims=tuple(_claim(measured, claim, notes) for claim in claims),
        footnotes=tuple(notes),
    )


def _deviations(board: Board, paper: Facts) -> tuple[str, ...]:
    """Return what the run does otherwise than the paper."""
    rows, data, wanted = board.plan.rows, board.plan.data, board.plan.suite.dataset
    other = [f"data {data.name} instead of {wanted}"] if data.name != wanted else []
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
            numbers.append(_published(defense, column, entry[0], spread, by_seed, ends))
    return PublishedTable(table["title"], table["source"], table["note"], tuple(table["columns"]), tuple(numbers))


def _published(
    defense: str,
    column: str,
    published: float,
    spread: float | None,
    by_seed: dict[int, float],
    ends: tuple[float, float] | None,
) -> Published:
    value = float(np.mean(list(by_seed.values()))) if by_seed else None
    low, high = ends or (None, None)
    slack = 2 * (spread or 0.0)
    agrees = None if ends is None else ends[0] <= published + slack and ends[1] >= published - slack
    return Published(defense, column, published, spread, value, low, high, by_seed, agrees)


_Ours = tuple[dict[int, float], tuple[float, float] | None]


def _means(measured: Estimates, defense: str, column: str) -> _Ours:
    return measured.mean(defense, column)


def _discrepancies(measured: Estimates, defense: str, column: str) -> _Ours:
    """Return (test − train)/train of a column per seed, and the hull of the seeds' intervals."""
    found = {s: d for s in measured.seeds(defense) if (d := measured.discrepancy(defense, s, column))}
    if not found:
        return {}, None
    ends = (min(low for _, low, _ in found.values()), max(high for _, _, high in found.values()))
    return {seed: value for seed, (value, _, _) in found.items()}, ends


def _costs(measured: Estimates, defense: str, column: str) -> _Ours:
    """Return the training time relative to Standard's, per seed, none in doubt; it has no interval over images."""
    cost = measured.cost(defense, "standard")
    return ({} if cost.doubt else cost.by_seed), None


# Claims


def _claim(measured: Estimates, claim: Facts, notes: list[tuple[str, str]]) -> Claim:
    """Check a claim."""
    conditions = tuple(c for facts in claim["conditions"] for c in _conditions(measured, facts))
    verdict, explanation = judge(conditions)
    footnotes = tuple(text for about, text in notes if about == claim["id"])
    return Claim(claim["id"], claim["title"], claim["source"], conditions, verdict, explanation, footnotes)


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


def _conditions(measured: Estimates, facts: Facts) -> Iterator[Condition]:
    """Check a condition; one with a {placeholder} in its column becomes one per matching column."""
    column = facts.get("column", "")
    if "{" not in column:
        yield _condition(measured, facts)
        return
    for name in measured.columns(column) or [column]:
        yield _condition(measured, {**facts, "column": name})


def _condition(measured: Estimates, facts: Facts) -> Condition:
    decide = _cheaper if facts["kind"] == "cheaper" else _in_range
    defenses = [facts[side] for side in ("left", "right") if side in facts]
    decided = {s: d for s in measured.seeds(*defenses) if (d := decide(measured, facts, s)) is not None}
    missing = "" if decided else f"{facts.get('column', 'training time')} of {formatting.listing(defenses)}"
    return Condition(
        _WORDS[facts["kind"]].format(**facts),
        {seed: verdict for seed, (verdict, _) in decided.items()},
        {seed: numbers for seed, (_, numbers) in decided.items()},
        missing,
    )


_WORDS = {
    "lower": "{column} of {left} < {column} of {right}",
    "higher": "{column} of {left} > {column} of {right}",
    "on_par": "{column} of {left} within {margin:g} of {right}'s",
    "grows": "(test − train)/train of {column} of {left} ≥ {bound:g}",
    "same": "|test − train|/train of {column} of {left} ≤ {bound:g}",
    "cheaper": "training time of {left} ≤ {ratio:g} × that of {right}, within 5 %",
}
_TINY = float(np.finfo(float).tiny)
# Kind to the range in which its quantity must lie.
_RANGES: dict[str, Callable[[Facts], tuple[float, float]]] = {
    "lower": lambda facts: (-np.inf, -_TINY),
    "higher": lambda facts: (_TINY, np.inf),
    "on_par": lambda facts: (-facts["margin"], facts["margin"]),
    "grows": lambda facts: (facts["bound"], np.inf),
    "same": lambda facts: (-facts["bound"], facts["bound"]),
}


def _in_range(measured: Estimates, facts: Facts, seed: int) -> tuple[bool | None, str] | None:
    """Decide one seed: True if the quantity's whole interval lies in the range, False if all of it lies outside."""
    if "right" in facts:
        found = measured.difference(facts["left"], facts["right"], seed, facts["column"])
    else:
        found = measured.discrepancy(facts["left"], seed, facts["column"])
    if found is None:
        return None
    value, low, high = found
    lowest, highest = _RANGES[facts["kind"]](facts)
    inside, outside = lowest <= low and high <= highest, high < lowest or low > highest
    numbers = f"{formatting.number(value)} [{formatting.number(low)}, {formatting.number(high)}]"
    return (True if inside else False if outside else None), numbers


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
