"""The adversarial examples that the page shows of each defense."""

from __future__ import annotations

import numpy as np

from bench.core.records import ThreatModel
from bench.reports.board.columns import BoardColumn
from bench.reports.board.contested import Contested
from bench.reports.board.pictures import StoredImages
from bench.reports.board.run_tables import RunTables, Table, numbers
from bench.store.records import IMAGES_SHOWN
from bench.store.store import Store


def stored_images(
    store: Store,
    groups: dict[str, list[RunTables]],
    ranking: BoardColumn | None,
    threat: ThreatModel | None,
    contested: Contested | None,
) -> dict[tuple[str, int], StoredImages]:
    """Return the examples that the page shows: of each defense the easiest and the hardest, and those of its pairs.

    The easiest and the hardest broken images are those of its first run that has stored ones.

    Args:
        store: an open store.
        groups: defense to its runs.
        ranking: the column that ranks: its evaluation's images are wanted; None for none.
        threat: in its norm the images' distances are given.
        contested: the images that tell the defenses apart; None: there are none.

    Raises:
        IntegrityError: stored images do not match their SHA-256.
    """
    chosen: dict[tuple[str, int], StoredImages] = {}
    if ranking is None or threat is None:
        return chosen
    for name, runs in groups.items():
        ends = True  # of the first run that has images
        for run in runs:
            more = contested.wanted(name, run.seed) if contested else np.zeros(0, dtype=np.int64)
            record = run.records[ranking.evaluation]
            images = store.images(record.id) if record and (ends or len(more)) else {}
            if record and len(images.get("index", ())):
                chosen[name, run.seed] = _chosen(record.id, images, run, threat, ends, more)
                ends = False
    return chosen


def _chosen(
    cell: str, images: dict[str, np.ndarray], run: RunTables, threat: ThreatModel, ends: bool, more: np.ndarray
) -> StoredImages:
    """Return the images with the smallest and the largest changes known to break them, and others that are wanted.

    Args:
        cell: the evaluation that stored them.
        images: of the run, all that are stored.
        run: it says how small a change broke each.
        threat: in its norm.
        ends: whether the easiest and the hardest are wanted.
        more: further images that are, by index.
    """
    delta = (images["adversarial"] - images["clean"]).reshape(len(images["index"]), -1).astype("float64")
    distance = np.abs(delta).max(axis=1, initial=0.0) if threat.norm == "linf" else np.linalg.norm(delta, axis=1)
    known, bisected = smallest_change(run, threat)
    breaks = np.fmin(distance, [known.get(int(index), np.nan) for index in images["index"]])
    order = np.lexsort((np.linalg.norm(delta, axis=1), breaks))
    keep = np.isin(images["index"][order], more)
    if ends:
        keep[:IMAGES_SHOWN] = keep[-IMAGES_SHOWN:] = True
    order = order[keep]
    return StoredImages(
        cell=cell,
        index=images["index"][order],
        clean=images["clean"][order],
        adversarial=images["adversarial"][order],
        distance=distance[order],
        breaks=breaks[order],
        bisected=bisected,
        prediction=images["prediction"][order] if "prediction" in images else None,
    )


def smallest_change(run: RunTables, threat: ThreatModel) -> tuple[dict[int, float], bool]:
    """Return the size of the smallest change that is known to break each image, and whether one was searched for.

    It is the least of what every evaluation in the threat's norm says: attacks, each at its budgets, and the bisection
    of the way to an adversarial example.

    Args:
        run: one defense and seed.
        threat: its norm is wanted.
    """
    found, bisected = dict[int, float](), False
    for table in run.tables.values():
        for name, facts in table.facts.items():
            if facts.role in ("distance", "breaking") and facts.params.get("norm") == threat.norm:
                bisected |= facts.role == "breaking"
                for index, size in _sizes(table, name).items():
                    found[index] = min(size, found.get(index, np.inf))
    return found, bisected


def _sizes(table: Table, name: str) -> dict[int, float]:
    """Return image to size of the change, where there is one."""
    values = numbers(table, name)
    known = ~np.isnan(values)
    return dict(zip(table.index[known].tolist(), values[known].tolist(), strict=True))
