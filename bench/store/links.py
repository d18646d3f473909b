"""Links between records: what was measured belongs to what was trained."""

from __future__ import annotations

from collections.abc import Mapping

from bench.core.errors import IntegrityError
from bench.store.records import RESTORE, CellRecord


def broken_links(trained: CellRecord | None, records: Mapping[str, CellRecord | None]) -> list[str]:
    """Return which evaluations of a run were not measured on the weights of its training, in words.

    Args:
        trained: what is known of the run's training.
        records: key of an evaluation to what is known of its cell.

    Returns:
        One phrase per evaluation, without the run's name.
    """
    found = []
    for key, record in records.items():
        model = record.spec.get("model") if record else None
        if not isinstance(model, Mapping):  # not measured yet
            continue
        weights = trained.info.get("weights") if trained else None
        if weights != model.get("weights"):
            found.append(
                f"{key}: expected weights {_short(weights)} of its training, got {_short(model.get('weights'))}"
            )
    return found


def require_links(where: str, trained: CellRecord | None, records: Mapping[str, CellRecord | None]) -> None:
    """Refuse a run whose evaluations were not measured on its weights.

    Args:
        where: the run, for the message.
        trained: what is known of its training.
        records: key of an evaluation to what is known of its cell.

    Raises:
        IntegrityError: one was measured on others; it is named.
    """
    if broken := broken_links(trained, records):
        raise IntegrityError(f"{where}: {broken[0]}. {RESTORE}")


def _short(sha: object) -> str:
    return str(sha)[:12]
