"""The adversarial examples that the page shows of each defense."""

from __future__ import annotations

import numpy as np

from bench.core.records import ThreatModel
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import StoredImages
from bench.reports.board.run_tables import RunTables
from bench.store.records import IMAGES_SHOWN
from bench.store.store import Store


def stored_images(
    store: Store, groups: dict[str, list[RunTables]], ranking: BoardColumn | None, threat: ThreatModel | None
) -> dict[tuple[str, int], StoredImages]:
    """Return the nearest and the farthest broken images of each defense's first run that has stored ones.

    Args:
        store: an open store.
        groups: defense to its runs.
        ranking: the column that ranks: its evaluation's images are wanted; None for none.
        threat: in its norm the images' distances are given.

    Raises:
        IntegrityError: stored images do not match their SHA-256.
    """
    chosen: dict[tuple[str, int], StoredImages] = {}
    for name, runs in groups.items() if ranking and threat else ():
        for run in runs:
            record = run.records[ranking.evaluation] if ranking else None
            images = store.images(record.id) if record else {}
            if len(images.get("index", ())):
                chosen[name, run.seed] = _nearest_and_farthest(images, threat.norm if threat else "")
                break
    return chosen


def _nearest_and_farthest(images: dict[str, np.ndarray], norm: str) -> StoredImages:
    """Return the images with the smallest and those with the largest changes, by their Euclidean length."""
    delta = (images["adversarial"] - images["clean"]).reshape(len(images["index"]), -1).astype("float64")
    length = np.linalg.norm(delta, axis=1)
    order = np.argsort(length, kind="stable")
    keep = order if len(order) <= 2 * IMAGES_SHOWN else np.concatenate([order[:IMAGES_SHOWN], order[-IMAGES_SHOWN:]])
    distance = np.abs(delta).max(axis=1, initial=0.0) if norm == "linf" else length
    prediction = images["prediction"][keep] if "prediction" in images else None
    return StoredImages(
        images["index"][keep], images["clean"][keep], images["adversarial"][keep], distance[keep], prediction
    )
