"""The trust grade of a model in memory, and what evaluations read of each other there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bench.config.evaluation_config import EvaluationConfig
from bench.core.records import REFERENCE_RANK, Column, Evaluation, ThreatModel, Track
from bench.measuring.inputs import CellInputs, column_values
from bench.measuring.witness import Witness
from bench.trust.assess import assess
from bench.trust.evidence import Evidence, Measured
from bench.trust.records import TrustData


def threat_of(evaluation: Evaluation, entry: EvaluationConfig) -> ThreatModel:
    """Return norm and largest radius of an evaluation.

    Args:
        evaluation: the registered evaluation, with a norm among its columns' params.
        entry: it with its arguments, `eps` among them.
    """
    norm = next(str(c.params["norm"]) for c in evaluation.columns.values() if "norm" in c.params)
    return ThreatModel(norm, max(entry.arguments["eps"]))


def measures_trust(evaluation: Evaluation) -> bool:
    """Return whether an evaluation measures what the checks of trust read."""
    return any(column.role == "trust" for column in evaluation.columns.values())


def own_inputs(
    evaluation: Evaluation,
    entry: EvaluationConfig,
    table: pd.DataFrame,
    facts: Mapping[str, Column],
    passes: Mapping[str, float],
    witness: Witness | None,
) -> CellInputs | None:
    """Return what an evaluation reads of those that were run before it on the same model; None if it reads nothing.

    Per role it is the column at its own threat of the attack that ranks highest. Images are not kept in memory.

    Args:
        evaluation: the registered evaluation.
        entry: it with its arguments.
        table: per-example table so far, with `index`.
        facts: name of each of its columns to what the column is.
        passes: name of a column to the passes per image, forward and backward, of the evaluation that gave it.
        witness: answers for the model without any question before.
    """
    if not all(need.optional for need in evaluation.needs) or not evaluation.needs:
        return None
    threat, found, cost = threat_of(evaluation, entry), {}, None
    for need in evaluation.needs:
        columns = {n: c for n, c in facts.items() if c.role == need.role and threat.matches(c) and need.of == "own"}
        if columns:
            name = max(columns, key=lambda n: columns[n].ranks)
            rows = table[table[name].notna()]
            if len(rows) >= min(len(table), entry.limit or len(table)):
                found[need.role] = column_values(rows, name)
                if need.role == "robust" and columns[name].ranks >= REFERENCE_RANK:
                    cost = passes[name]
    return CellInputs(own=found, passes=cost, witness=witness)


def trust_of(
    table: pd.DataFrame, facts: Mapping[str, Column], threat: ThreatModel, track: Track = "deterministic"
) -> TrustData:
    """Return grade and checks as plain data: what `attrs["trust"]` holds.

    Args:
        table: per-example table with `index`.
        facts: name to what the column is.
        threat: norm and radius that trust was measured at.
        track: of the model.
    """
    index = table["index"].to_numpy()
    columns = tuple(Measured(index, _values(table[name]), facts[name]) for name in table.columns if name in facts)
    return assess(Evidence(threat, columns, in_memory=True, track=track)).as_data()


def _values(column: pd.Series) -> np.ndarray | pd.api.extensions.ExtensionArray:
    return column.to_numpy() if column.dtype.kind in "biuf" else column.array
