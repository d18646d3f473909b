"""The board in RobustBench's form: one JSON per row, for interoperability; on disk and as one archive."""

from __future__ import annotations

import io
import math
import re
import zipfile
from typing import Final, TypedDict

from bench.core import files
from bench.core.records import NORM_SYMBOLS, Grade, Role, ThreatModel
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn, with_role
from bench.reports.board.model import Board, Row
from bench.reports.board.parts import Cell
from bench.reports.exports.json import dump
from bench.reports.exports.registry import export

CORRUPTIONS: Final = "corruptions"  # RobustBench's name of that threat
_MEASURED: Final[tuple[Role, Role]] = ("clean", "corruption")


class Paper(TypedDict):
    """A row's paper: its address, its authors, where and when it appeared."""

    link: str
    authors: str
    venue: str


@export("model_info")
def texts(board: Board) -> dict[str, str]:
    """Return path to text of the files in RobustBench's form: per row one of the threat, and one of corruptions.

    A row whose clean accuracy was not measured has none.
    """
    made = (make(board, row) for row in board.rows for make in (_row_info, _corruption_info))
    return dict(found for found in made if found is not None)


@export("model_info.zip", media="application/zip", label="RobustBench model_info", order=60, written=False)
def archive(board: Board) -> bytes:
    """Return the same files as one archive, without a clock in it: same board, same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, text in texts(board).items():
            packed.writestr(zipfile.ZipInfo(path), text, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _row_info(board: Board, row: Row) -> tuple[str, str] | None:
    """Return path and text of the row's file in RobustBench's form, if its clean accuracy was measured."""
    column, threat = board.first("clean"), board.threat
    clean = row.cells.get(column.name) if column else None
    if clean is None or clean.value is None or threat is None:
        return None
    attacked = _autoattack(board, threat)
    robust = row.cells.get(attacked.name) if attacked else None
    sizes = f"AutoAttack on {formatting.plural(robust.n, 'image')}" if robust else "AutoAttack not run"
    info = model_info(
        board.plan.data.name,
        row.defense,
        clean.value,
        robust.value if robust else None,
        threat.eps,
        **_paper(row),
        architecture=row.entry.backbone,
        footnote=_footnote(row, clean, sizes),
        unreliable=None if row.trust is None else row.trust > Grade.B,
    )
    return f"model_info/{place(board.plan.data.name, threat_name(threat), row.defense)}", dump(info)


def _corruption_info(board: Board, row: Row) -> tuple[str, str] | None:
    """Return path and text of the row's file on common corruptions, if clean and corrupted images were measured."""
    clean, found = (row.cells.get(column.name) if (column := board.first(role)) else None for role in _MEASURED)
    if clean is None or clean.value is None or found is None or found.value is None:
        return None
    sizes = f"bench's own corruptions and severities, not CIFAR-10-C's, on {formatting.plural(found.n, 'image')}"
    info = model_info(
        board.plan.data.name,
        row.defense,
        clean.value,
        None,
        None,
        **_paper(row),
        architecture=row.entry.backbone,
        footnote=_footnote(row, clean, sizes),
        corruptions=found.value,
    )
    return f"model_info/{place(board.plan.data.name, CORRUPTIONS, row.defense)}", dump(info)


def _paper(row: Row) -> Paper:
    """Return link, authors and venue of a row's paper."""
    found = paper_of(row.entry.bibtex, row.entry.source)
    return Paper(link=row.link or found["link"], authors=found["authors"], venue=found["venue"])


def _footnote(row: Row, clean: Cell, sizes: str) -> str:
    """Return on how many seeds and images a row's numbers were measured, and where its weights come from."""
    return (
        f"{row.incomplete or formatting.plural(len(row.seeds), 'seed')}; {sizes}, clean accuracy on "
        f"{formatting.plural(clean.n, 'image')}; {row.entry.provenance}."
    )


def _autoattack(board: Board, threat: ThreatModel) -> BoardColumn | None:
    """Return the column of our AutoAttack at the threat, the only attack that RobustBench's form has a place for."""
    robust = (c for c in with_role(board.columns, "robust") if threat.matches(c.facts))
    return next((c for c in robust if c.facts.params.get("attack") == "autoattack"), None)


def threat_name(threat: ThreatModel) -> str:
    """Return a threat as RobustBench names it: "L2", "Linf"; any other norm as it is.

    Args:
        threat: norm and radius.
    """
    return threat.norm.capitalize() if threat.norm in NORM_SYMBOLS else threat.norm


def paper_of(bibtex: str, source: str) -> Paper:
    """Return link, authors and venue from a defense's BibTeX; its source line names the authors where it has none.

    Args:
        bibtex: one entry; "" if unknown.
        source: paper and place.
    """
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*[{\"](.*?)[}\"],?\s*$", bibtex, re.MULTILINE))
    people = re.sub(r"\\\w\{|\\\W|[{}]", "", fields.get("author", "")).split(" and ")  # accents are dropped
    names = [" ".join(reversed(person.split(", "))) for person in people if person]
    where = (fields.get("booktitle") or fields.get("journal", ""), fields.get("year", ""))
    return Paper(link=fields.get("url", ""), authors=", ".join(names) or source, venue=", ".join(filter(None, where)))


def place(dataset: str, threat_model: str, name: str) -> str:
    """Return `<dataset>/<threat model>/<name>.json`, every part made safe for a file.

    Args:
        dataset: name of the data.
        threat_model: as RobustBench names it, e.g. "L2".
        name: the model's name.
    """
    return "/".join([files.safe_name(dataset), files.safe_name(threat_model), f"{files.safe_name(name)}.json"])


def model_info(
    dataset: str,
    name: str,
    clean: float,
    robust: float | None,
    eps: float | None,
    *,
    link: str = "",
    authors: str = "",
    venue: str = "",
    architecture: str = "",
    footnote: str = "",
    unreliable: bool | None = None,
    corruptions: float | None = None,
) -> dict[str, object]:
    """Return a model's entry with RobustBench's keys.

    Args:
        dataset: name of the data, e.g. "cifar10" or "cifar10-jpeg".
        name: the model's name.
        clean: clean accuracy in [0, 1].
        robust: AutoAttack's robust accuracy in [0, 1]; None: not measured, null in the file.
        eps: the budget on [0, 1] pixels; multiples of 1/255 are written as such; None: of corruptions.
        link: address of the paper.
        authors: who.
        venue: where and when it appeared.
        architecture: the backbone.
        footnote: on how many images and seeds.
        unreliable: whether the trust checks say so; None: not assessed, null in the file.
        corruptions: accuracy on corrupted images in [0, 1], which then stands in the place of AutoAttack's.
    """
    known: dict[str, object] = {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": venue,
        "architecture": architecture,
        "eps": None if eps is None else _budget(eps),
        "clean_acc": f"{100 * clean:.2f}",
        "reported": None,
    }
    if corruptions is not None:
        return known | {"corruptions_acc": f"{100 * corruptions:.2f}", "footnote": footnote}
    attacked = None if robust is None else f"{100 * robust:.2f}"
    return known | {"autoattack_acc": attacked, "external": None, "footnote": footnote, "unreliable": unreliable}


def _budget(eps: float) -> str:
    """Return a budget as RobustBench writes it: the number where six digits say it all, else "8/255" if it is such."""
    if float(f"{eps:g}") == eps:
        return f"{eps:g}"
    steps = math.floor(255 * eps + 0.5)
    return f"{steps}/255" if steps > 0 and abs(255 * eps - steps) < 1e-6 else repr(eps)
