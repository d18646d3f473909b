"""A result folder as a handful of small files that travel, and back. No torch.

A pack is a folder: `pack.json` says what it holds, `leaderboard.html` opens as it is, `board.zip` holds the other
exports, `store.zip` a compact copy of the store with audits and accepted challenges, `weights.zip` (on request)
trained weights. An archive larger than one file may be is cut into NAME.001, NAME.002, …; `cat NAME.* > NAME` joins it.
Optimiser states never travel, and of the adversarial examples only those that the page shows. Same results, same bytes.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bench.core import files, hashing
from bench.core.errors import UsageError
from bench.core.version import VERSION
from bench.packs.compact import compact
from bench.packs.replaced import refuse_loss
from bench.reports import write as write_reports
from bench.reports.board import build
from bench.store.audit_record import FILE_NAME as AUDITS
from bench.store.audit_record import load_audits
from bench.store.challenge_record import challenge_paths, load_challenges
from bench.store.database import NAME
from bench.store.plan_record import PlanRecord
from bench.store.status import RunStatus, run_status
from bench.store.store import Store

FORMAT = 1
LISTING = "pack.json"
PAGE = "leaderboard.html"
SIGNATURE = "pack.sig"
ARCHIVES = ("board.zip", "store.zip", "weights.zip")
EXAMPLES = ("examples.parquet", "examples_train.parquet")
EXPORTS = (
    "leaderboard.csv",
    "leaderboard.json",
    "leaderboard.md",
    "leaderboard.tex",
    "training.csv",
    "manifest.json",
    *EXAMPLES,
)
RULE = (
    "python -m bench results unpack DIR --out results/NAME checks every SHA-256 and puts the folder together again. "
    "By hand: `cat NAME.zip.* > NAME.zip`, then `python -m zipfile -e NAME.zip .` (store.zip is LZMA, which not every "
    "unzip reads); weights belong into weights/ beside bench.db."
)
Weights = Literal["none", "needed", "all"]


@dataclass(frozen=True)
class Limits:
    """What a pack may be: so many files, each and all together of so many bytes."""

    files: int = 8
    bytes: int = 15_000_000
    total: int = 120_000_000


class TooLarge(UsageError):
    """The results do not fit into the limits."""


@dataclass(frozen=True)
class Rows:
    """Models of a board.

    Attributes:
        defenses: specs, as the board names them; empty: all.
        seeds: training seeds; empty: all.
    """

    defenses: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def hold(self, defense: str, seed: int) -> bool:
        """Tell whether a model is one of them."""
        return (not self.defenses or defense in self.defenses) and (not self.seeds or seed in self.seeds)

    def require(self, plan: PlanRecord) -> None:
        """Refuse names and seeds that no model of a plan has.

        Raises:
            UsageError: there is one.
        """
        for wanted, found, what in (
            (self.defenses, {run.defense for run in plan.rows}, "rows"),
            (self.seeds, {run.seed for run in plan.rows}, "seeds"),
        ):
            if strange := [value for value in wanted if value not in found]:
                raise UsageError(
                    f"pack: expected {what} of the board, got {strange[0]!r}. There are: "
                    f"{', '.join(map(str, sorted(found)))}."
                )


@dataclass(frozen=True)
class Packed:
    """What was packed: where, the files' sizes in bytes by name, how far the run was, how many models' weights."""

    folder: Path
    sizes: dict[str, int]
    status: RunStatus
    weights: int


def pack(
    out: str | Path,
    to: str | Path | None = None,
    *,
    weights: Weights = "none",
    pictures: bool = False,
    board: bool = True,
    examples: bool = True,
    latest: bool = False,
    proved: Rows = Rows(),
    limits: Limits | None = None,
    keep_more: bool = False,
) -> Packed:
    """Pack a result folder; it may be in use, and is only read.

    Args:
        out: the result folder.
        to: where the pack goes; None: beside `out`, with "-pack" after its name. An older pack there is replaced.
        weights: of no model; of those whose evaluations are unfinished ("needed"); or of all.
        pictures: also all adversarial examples, not only those that the page shows: the transfer between rows needs
            them while it is unfinished.
        board: the board as files; the store alone is enough to make it again, but for the adversarial examples.
        examples: the per-example tables also as Parquet (the store holds them in any case).
        latest: only cells of the rows on the board.
        proved: the models whose weights and adversarial examples travel; of all unless it says.
        limits: None: 8 files of 15 MB.
        keep_more: refuse to replace an older pack that holds other results, or weights or adversarial examples that
            the new one would lack.

    Returns:
        Where the pack is, its files' sizes, and how far the run was.

    Raises:
        TooLarge: it does not fit; says how large what is and what to leave out.
        UsageError: with `keep_more`, the older pack holds more; `proved` names a row that there is not.
        MachineError, StoreError, IntegrityError: there is no sound store, or no place to write to.
    """
    out, limits = Path(out), limits or Limits()
    to = place_of(out, to)
    files.make_folder(to)
    with tempfile.TemporaryDirectory(dir=to, prefix=".packing-") as scratch:
        ready, every = Path(scratch) / "ready", pictures and proved == Rows()
        ready.mkdir()
        folder = Path(scratch) / "whole"
        compact(out, folder, latest=latest)
        beside = _copy_beside(out, folder)
        with Store.open(folder) as store:
            proved.require(store.plans.board().plan)
        if not every:
            whole, folder = folder, Path(scratch) / "reduced"
            kept = _all_pictures(whole, proved) if pictures else _shown_pictures(whole, proved) if board else {}
            compact(whole, folder, pictures=kept)
            _copy_beside(whole, folder)
        if board:
            write_reports(folder)  # of exactly what is packed
        now = run_status(folder)
        chosen = _weights(
            out, _trained(folder, proved) if weights == "all" else _needed(now) if weights == "needed" else ()
        )
        facts: dict[str, str | bool] = {"suite": now.suite, "data": now.data, "pictures": every}
        if keep_more:
            refuse_loss(to / LISTING, facts, (f"weights/{path.name}" for path in chosen))
        _refuse_early(chosen, limits)
        archives = {"store.zip": _zip(ready / "store.zip", folder, [NAME, *beside])}
        if board:
            names = [n for n in _exports(folder) if examples or n not in EXAMPLES]
            archives["board.zip"] = _zip(ready / "board.zip", folder, names)
            shutil.copyfile(folder / PAGE, ready / PAGE)
        if chosen:
            archives["weights.zip"] = _zip(ready / "weights.zip", out, [f"weights/{p.name}" for p in chosen])
        for name in archives:
            archives[name]["parts"] = _split(ready / name, limits.bytes)
        listing = _listing(ready, archives, now, facts)
        sizes = {p.name: p.stat().st_size for p in sorted(ready.iterdir())} | {LISTING: len(listing.encode())}
        _require(sizes, limits, weights != "none", pictures, board and examples, latest)
        _publish(ready, to, listing)
    return Packed(to, sizes, now, len(chosen))


def place_of(out: Path, to: str | Path | None) -> Path:
    """Return the folder of a result folder's pack.

    Args:
        out: the result folder.
        to: where the pack goes, as asked for; None: beside `out`.
    """
    return Path(to) if to is not None else out.with_name(f"{out.name}-pack")


def _copy_beside(out: Path, folder: Path) -> list[str]:
    """Copy audits and accepted challenges, which lie beside the store, and return their names."""
    load_audits(out)
    load_challenges(out)
    names = [AUDITS] if (out / AUDITS).is_file() else []
    names += [path.relative_to(out).as_posix() for path in challenge_paths(out)]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(out / name, folder / name)
    return names


def _all_pictures(folder: Path, proved: Rows) -> dict[str, np.ndarray]:
    """Return all adversarial examples of some models of the board: cell to places in the data set."""
    with Store.open(folder) as store:
        runs = [run for run in store.plans.board().plan.rows if proved.hold(run.defense, run.seed)]
        cells = [cell for run in runs for cell in run.evaluations.values() if cell]
        return {cell: images["index"] for cell in cells if "index" in (images := store.images(cell))}


def _shown_pictures(folder: Path, proved: Rows) -> dict[str, np.ndarray]:
    """Return the adversarial examples of some models that a folder's page shows: cell to places in the data set."""
    with Store.open(folder) as store:
        board = build.build(store)
    return {images.cell: images.index for model, images in board.adversarial.items() if proved.hold(*model)}


def _exports(folder: Path) -> list[str]:
    """Return the exports that go into board.zip: those of the list that are there, and RobustBench's files."""
    info = sorted(p.relative_to(folder).as_posix() for p in (folder / "model_info").rglob("*.json"))
    return [name for name in EXPORTS if (folder / name).is_file()] + info


def _trained(folder: Path, proved: Rows) -> Iterable[str]:
    """Return the SHA-256 of the weights of every trained model of the board that is wanted."""
    with Store.open(folder) as store:
        wanted = [run for run in store.plans.board().plan.rows if proved.hold(run.defense, run.seed)]
        records = [store.cell(run.train_cell) for run in wanted]
    return [str(record.info["weights"]) for record in records if record is not None and record.status == "done"]


def _needed(now: RunStatus) -> Iterable[str]:
    """Return the SHA-256 of the weights of the models that have evaluations left to do."""
    return [row.weights for row in now.rows if row.weights and row.needs_weights]


def _weights(out: Path, wanted: Iterable[str]) -> list[Path]:
    """Return the weights' files that are to be packed and are there, in the order of their names."""
    paths = {out / "weights" / f"{sha256}.safetensors" for sha256 in wanted}
    return sorted(p for p in paths if p.is_file())


def _refuse_early(weights: list[Path], limits: Limits) -> None:
    """Refuse weights that are far too large before they are compressed; floats lose less than a fifth."""
    size = sum(p.stat().st_size for p in weights)
    if 0.8 * size > min(limits.total, limits.files * limits.bytes):
        raise TooLarge(
            f"pack: expected at most {limits.files} files of {_mb(limits.bytes)}, together {_mb(limits.total)}, got "
            f"{len(weights)} models' weights of {_mb(size)}. Leave out --weights, or copy the folder itself."
        )


def _zip(path: Path, folder: Path, names: Iterable[str]) -> dict[str, object]:
    """Write an archive of files of a folder, without clocks and owners; return what the listing says of it."""
    members = {}
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)  # dated 1980
            # The same columns recur in every chunk of a store, farther apart than deflate looks: a third less.
            entry.compress_type = zipfile.ZIP_LZMA if path.name == "store.zip" else zipfile.ZIP_DEFLATED
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            source = folder / name
            entry.file_size = source.stat().st_size
            with source.open("rb") as stream, archive.open(entry, "w") as target:
                shutil.copyfileobj(stream, target, 1 << 20)
            members[name] = {"bytes": entry.file_size, "sha256": hashing.sha256(source)}
    return {"bytes": path.stat().st_size, "sha256": hashing.sha256(path), "members": members}


def _split(path: Path, most: int) -> list[str]:
    """Cut a file into parts of at most `most` bytes, named .001 and so on; leave it alone if it is small enough."""
    if path.stat().st_size <= most:
        return [path.name]
    names: list[str] = []
    with path.open("rb") as stream:
        while block := stream.read(most):
            names.append(f"{path.name}.{len(names) + 1:03d}")
            path.with_name(names[-1]).write_bytes(block)
    path.unlink()
    return names


def _listing(
    ready: Path, archives: dict[str, dict[str, object]], now: RunStatus, what: Mapping[str, str | bool]
) -> str:
    listed = {p.name: {"bytes": p.stat().st_size, "sha256": hashing.sha256(p)} for p in sorted(ready.iterdir())}
    facts = {
        "format": FORMAT,
        "bench": VERSION,
        **what,
        "cells": {"done": now.done, "total": now.total},
        "rule": RULE,
        "files": listed,
        "archives": archives,
    }
    return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def _require(
    sizes: dict[str, int], limits: Limits, weights: bool, pictures: bool, examples: bool, latest: bool
) -> None:
    """Refuse what does not fit, naming the sizes and what could be left out."""
    total = sum(sizes.values())
    if len(sizes) <= limits.files and total <= limits.total and max(sizes.values()) <= limits.bytes:
        return
    kinds: dict[str, int] = {}
    for name, size in sizes.items():
        stem = next((a for a in ARCHIVES if name.startswith(a)), name)
        kinds[stem] = kinds.get(stem, 0) + size
    offers = [
        *(["leave out --weights"] if weights else []),
        *(["leave out --pictures"] if pictures else []),
        *(["add --without-examples (the store holds them)"] if examples else []),
        *(["add --latest (only the cells of the rows on the board)"] if not latest else []),
        "copy the folder itself",
    ]
    raise TooLarge(
        f"pack: expected at most {limits.files} files of {_mb(limits.bytes)}, together {_mb(limits.total)}, got "
        f"{len(sizes)} files of {_mb(total)} ({', '.join(f'{k} {_mb(v)}' for k, v in kinds.items())}). "
        f"To make it fit: {', or '.join(offers)}."
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.3g} MB"


def _publish(ready: Path, to: Path, listing: str) -> None:
    """Put a pack in place of an older one; pack.json goes first and comes last, so that half a pack is none."""
    (to / LISTING).unlink(missing_ok=True)
    (to / SIGNATURE).unlink(missing_ok=True)
    for old in to.iterdir():
        if is_part(old.name):
            old.unlink()
    for path in sorted(ready.iterdir()):
        path.replace(to / path.name)
    files.write_text(to / LISTING, listing)


def is_part(name: str) -> bool:
    """Tell whether a file name is one that a pack may hold beside pack.json."""
    stem, _, number = name.rpartition(".")
    return name in (PAGE, *ARCHIVES) or (stem in ARCHIVES and number.isascii() and number.isdecimal())
