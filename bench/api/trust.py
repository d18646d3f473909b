"""The trust grade of a model in memory, from the table of its evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from bench.config.evaluation_config import EvaluationConfig
from bench.core import registry
from bench.core.records import Column, ThreatModel
from bench.trust.assess import assess
from bench.trust.evidence import Evidence, Measured
from bench.trust.records import TrustData


def threat_of(facts: Mapping[str, Column], entries: Iterable[EvaluationConfig]) -> ThreatModel | None:
    """Return norm and radius at which trust was measured; None where it was not.

    Args:
        facts: column's name to what it is.
        entries: the evaluations that were run.
    """
    if not any(column.role == "trust" for column in facts.values()):
        return None
    for entry in entries:
        for column in registry.evaluations.get(entry.evaluation).columns.values():
            if column.role == "trust":
                return ThreatModel(str(column.params["norm"]), max(entry.arguments["eps"]))
    return None


def trust_of(table: pd.DataFrame, facts: Mapping[str, Column], threat: ThreatModel) -> TrustData:
    """Return grade and checks as plain data: what `attrs["trust"]` holds.

    Args:
        table: per-example table with `index`.
        facts: name to what the column is.
        threat: norm and radius that trust was measured at.
    """
    index = table["index"].to_numpy()
    columns = tuple(Measured(index, _values(table[name]), facts[name]) for name in table.columns if name in facts)
    return assess(Evidence(threat, columns, in_memory=True)).as_data()


def _values(column: pd.Series) -> np.ndarray | pd.api.extensions.ExtensionArray:
    return column.to_numpy() if column.dtype.kind in "biuf" else column.array
