"""What no plan of a result folder needs any more: results and weights of settings that were changed since."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.core import files
from bench.store.database import NAME, Database
from bench.store.health import PICTURES, WEIGHTS
from bench.store.plans import Plans
from bench.store.records import parsed_object
from bench.store.repair import refuse_while_in_use


@dataclass(frozen=True)
class Garbage:
    """What can be removed.

    Attributes:
        cells: ids of cells, with their chunks and logs.
        chunks: how many chunks those have.
        files: weights, stored images and checkpoints.
        size: bytes of all of it.
    """

    cells: tuple[str, ...]
    chunks: int
    files: tuple[Path, ...]
    size: int


def find_garbage(database: Database) -> Garbage:
    """Return what no plan of a folder needs: neither a plan's cells, nor the weights that they were measured on.

    What belongs to a plan is never garbage, whether it is sound or not: it may be the last copy.

    Raises:
        IntegrityError: a record is damaged, so that it cannot be told what is needed.
        StoreError: a plan was made by another version of bench.
    """
    needed: set[str] = set()
    for number in Plans(database).numbers():
        for run in Plans(database).get(number).rows:
            needed |= {run.train_cell, *run.evaluations.values()}
    weights: set[str] = set()
    cells = []
    for row in database.rows("cells", "true ORDER BY rowid", {}):
        if row["id"] in needed:
            info, spec = (parsed_object(row[name], "cell") for name in ("info", "spec"))
            model = spec.get("model")
            weights |= {str(info.get("weights")), str(model.get("weights") if isinstance(model, dict) else None)}
        else:
            cells.append(str(row["id"]))
    size, chunks = 0, 0
    sql = "SELECT cell, length(data) + coalesce(length(images), 0) AS size FROM chunks"
    for row in database.query(sql):
        if row["cell"] not in needed:
            size, chunks = size + row["size"], chunks + 1
    found = tuple(_unneeded_files(database.out, needed, weights))
    return Garbage(tuple(cells), chunks, found, size + sum(path.stat().st_size for path in found))


def _unneeded_files(out: Path, cells: set[str], weights: set[str]) -> Iterator[Path]:
    starts = {cell[:8] for cell in cells}
    for path in sorted((out / "weights").glob("*")):
        named, images = WEIGHTS.fullmatch(path.name), PICTURES.fullmatch(path.name)
        if (named and named[1] not in weights) or (images and images[1] not in starts):
            yield path
    yield from (p for p in sorted((out / "checkpoints").glob("*")) if p.name.partition(".")[0] not in cells)


def remove(database: Database, garbage: Garbage) -> None:
    """Remove what `find_garbage` has found; the files last, so that no record ever names one that is gone.

    Raises:
        LockedError: a run works on the folder.
        MachineError: something cannot be removed.
    """
    refuse_while_in_use(database)
    with database.transaction() as db:
        for cell in garbage.cells:
            for table, key in (("chunks", "cell"), ("epochs", "cell"), ("cells", "id")):
                db.execute(f"DELETE FROM {table} WHERE {key}=:cell", {"cell": cell})
    database.query("VACUUM")
    for path in garbage.files:
        files.remove(path)


def folder_size(out: Path) -> dict[str, int]:
    """Return the bytes of a result folder by what they are: store, weights, checkpoints, reports."""
    sizes = {"store": 0, "weights": 0, "checkpoints": 0, "reports": 0}
    for path in out.rglob("*"):
        if path.is_file() and not path.is_symlink():
            top = path.relative_to(out).parts[0]
            kind = "store" if top.startswith(NAME) else top if top in sizes else "reports"
            sizes[kind] += path.stat().st_size
    return sizes
