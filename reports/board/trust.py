"""The trust grade of every model of a board: what the checks of `bench.trust` say of the stored numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bench.core.records import REFERENCE_RANK, ThreatModel
from bench.reports.board.run_tables import RunTables
from bench.store.plan_record import PlanRecord
from bench.trust.assess import assess
from bench.trust.evidence import Evidence, Measured
from bench.trust.records import TrustReport

UNDEFENDED = "standard"  # the defense whose models are the undefended twins


def assess_runs(plan: PlanRecord, runs: Sequence[RunTables]) -> dict[tuple[str, int], TrustReport]:
    """Return (defense, seed) to the report on that model, for those whose trust was measured.

    Args:
        plan: as `Store.plans.latest` returns it.
        runs: its runs, with distinct names.
    """
    threat = plan.suite.threat
    if threat is None:
        return {}
    known = {(run.defense, run.seed): _evidence(plan, run, threat) for run in runs}
    twins = {run.seed: known[run.defense, run.seed] for run in _undefended(runs)}
    found = {}
    for run in runs:
        evidence = known[run.defense, run.seed]
        if not any(c.facts.role == "trust" and c.facts.params.get("norm") == threat.norm for c in evidence.columns):
            continue
        twin = twins.get(run.seed, next(iter(twins.values()), None))  # the undefended model is its own
        found[run.defense, run.seed] = assess(replace(evidence, twin=twin))
    return found


def _undefended(runs: Sequence[RunTables]) -> list[RunTables]:
    """Return the runs of the undefended defense: as it is, else of its first variant."""
    bases = [run for run in runs if run.entry.base == UNDEFENDED and run.tables]
    name = next((run.defense for run in bases if run.defense == UNDEFENDED), bases[0].defense if bases else "")
    return [run for run in bases if run.defense == name]


def _evidence(plan: PlanRecord, run: RunTables, threat: ThreatModel) -> Evidence:
    """Return what is stored of one model: every column on test images, and the facts of its trust evaluation."""
    tables = {key: table for key, table in run.tables.items() if plan.evaluations[key].split == "test"}
    columns = tuple(
        Measured(table.index, values, table.facts[name])
        for table in tables.values()
        for name, values in table.columns.items()
        if name in table.facts
    )
    trust = [key for key, table in tables.items() if any(f.role == "trust" for f in table.facts.values())]
    records = [record for key in trust if (record := run.records.get(key))]
    facts = {name: value for record in records for name, value in record.info.items()}
    facts |= {"weights": run.trained.info.get("weights") if run.trained else None}
    facts |= {"data": next((record.spec.get("data") for record in records), None)}
    return Evidence(
        threat,
        columns,
        facts=facts,
        others=max((_others(run, key) for key in tables), default=0),
        adaptive=any(_is_adaptive(run, key) for key in tables),
        track="randomised" if run.trained and run.trained.info.get("randomised") else "deterministic",
    )


def _others(run: RunTables, key: str) -> int:
    """Return how many other defenses' adversarial examples an evaluation tried: the key of its cell names them."""
    record = run.records.get(key)
    inputs = record.spec.get("inputs", {}) if record else {}
    labels = inputs.get("others adversarial", {}) if isinstance(inputs, Mapping) else {}
    return len({label.rpartition(" seed ")[0] for label in labels})


def _is_adaptive(run: RunTables, key: str) -> bool:
    """Tell whether the attack that ranks was run beside one declared for this very defense, as its cell's key says."""
    record = run.records.get(key)
    ranks = max((c.ranks for c in run.tables[key].facts.values() if c.role == "robust"), default=0)
    return record is not None and record.status == "done" and ranks >= REFERENCE_RANK and "adaptive" in record.spec
