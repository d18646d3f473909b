"""The board in RobustBench's form: one JSON per row, for interoperability; on disk and as one archive."""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import Any

from bench.core import files
from bench.reports import formatting
from bench.reports.board.model import Board, Row


def texts(board: Board) -> dict[str, str]:
    """Return path to text of the files in RobustBench's form, one per row whose clean accuracy was measured."""
    return dict(found for row in board.rows if (found := _row_info(board, row)) is not None)


def archive(board: Board) -> bytes:
    """Return the same files as one archive, without a clock in it: same board, same bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for path, text in texts(board).items():
            packed.writestr(zipfile.ZipInfo(path), text, zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _row_info(board: Board, row: Row) -> tuple[str, str] | None:
    """Return path and text of the row's file in RobustBench's form, if its clean accuracy was measured."""
    clean = row.cells.get("clean_accuracy")
    eps = board.plan.suite.primary_eps
    if clean is None or clean.value is None or eps is None:
        return None
    robust = row.cells.get(f"autoattack_l2_{eps:g}")
    facts = next(iter(row.facts.values()))
    sizes = f"AutoAttack on {formatting.plural(robust.n, 'image')}" if robust else "AutoAttack not run"
    info = model_info(
        board.plan.data.name,
        row.defense,
        clean.value,
        robust.value if robust else None,
        eps,
        **_paper(facts),
        architecture=facts.get("backbone", ""),
        footnote=f"{formatting.plural(len(row.seeds), 'seed')}; {sizes}, clean accuracy on "
        f"{formatting.plural(clean.n, 'image')}; {facts.get('provenance', '')}.",
        unreliable={"": None, "A": False, "B": False}.get(row.trust, True),
    )
    return f"model_info/{place(board.plan.data.name, 'L2', row.defense)}", json.dumps(
        info, indent=1, ensure_ascii=False, allow_nan=False
    ) + "\n"


def _paper(facts: dict[str, Any]) -> dict[str, str]:
    """Return link, authors and venue from a defense's BibTeX; its source line names the authors where it has none."""
    fields = dict(re.findall(r"^\s*(\w+)\s*=\s*[{\"](.*?)[}\"],?\s*$", facts.get("bibtex") or "", re.MULTILINE))
    people = re.sub(r"\\\w\{|\\\W|[{}]", "", fields.get("author", "")).split(" and ")  # accents are dropped
    names = [" ".join(reversed(person.split(", "))) for person in people if person]
    where = (fields.get("booktitle") or fields.get("journal", ""), fields.get("year", ""))
    return {
        "link": fields.get("url", ""),
        "authors": ", ".join(names) or facts.get("source", ""),
        "venue": ", ".join(filter(None, where)),
    }


def place(dataset: str, threat_model: str, name: str) -> str:
    """Return `<dataset>/<threat model>/<name>.json`, every part made safe for a file."""
    return "/".join([files.safe_name(dataset), files.safe_name(threat_model), f"{files.safe_name(name)}.json"])


def model_info(
    dataset: str,
    name: str,
    clean: float,
    robust: float | None,
    eps: float,
    *,
    link: str = "",
    authors: str = "",
    venue: str = "",
    architecture: str = "",
    footnote: str = "",
    unreliable: bool | None = None,
) -> dict[str, Any]:
    """Return a model's entry with RobustBench's keys.

    Args:
        dataset: name of the data, e.g. "cifar10" or "cifar10-jpeg".
        name: the model's name.
        clean: clean accuracy in [0, 1].
        robust: AutoAttack's robust accuracy in [0, 1]; None: not measured, null in the file.
        eps: the budget on [0, 1] pixels; multiples of 1/255 are written as such.
        link: address of the paper.
        authors: who.
        venue: where and when it appeared.
        architecture: the backbone.
        footnote: on how many images and seeds.
        unreliable: whether the trust checks say so; None: not assessed, null in the file.
    """
    return {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": venue,
        "architecture": architecture,
        "eps": _budget(eps),
        "clean_acc": f"{100 * clean:.2f}",
        "reported": None,
        "autoattack_acc": None if robust is None else f"{100 * robust:.2f}",
        "external": None,
        "footnote": footnote,
        "unreliable": unreliable,
    }


def _budget(eps: float) -> str:
    """Return a budget as RobustBench writes it: "8/255" for a multiple of 1/255, else the number."""
    steps = round(255 * eps)
    return f"{steps}/255" if steps > 0 and abs(255 * eps - steps) < 1e-6 and steps % 255 else f"{eps:g}"
