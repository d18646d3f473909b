"""One page over several boards: a line per result folder, read from the files that `report` left there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from markupsafe import Markup

from bench.core.errors import IntegrityError, UsageError
from bench.core.text import one_line
from bench.reports import formatting
from bench.reports.html import page

PAGE: Final = "leaderboard.html"
BOARD: Final = "leaderboard.json"
MANIFEST: Final = "manifest.json"
STYLES: Final = ("page.css", "board.css", "index.css")
MOST_BYTES: Final = 100_000_000  # of one of these files


@dataclass(frozen=True)
class BoardLine:
    """One board of the index.

    Attributes:
        link: address of its page from the index, "" where there is no page.
        suite: its name.
        data: name of the data set.
        original: whether these are the original files.
        threat: in words, "" without one.
        best: the first of the ranked rows, "" where nothing is ranked.
        reached: its number in the ranking column, with its interval.
        tied: how many other rows could be first as well.
        rows: how many rows the board has.
        n: test images of the ranking column.
        created: when it was planned, an ISO time.
        bench: version and commit that made it.
    """

    link: str
    suite: str
    data: str
    original: bool
    threat: str
    best: str
    reached: str
    tied: int
    rows: int
    n: int
    created: str
    bench: str


def boards_of(folders: Iterable[Path]) -> list[Path]:
    """Return the result folders among some folders, and those directly in them, each once.

    Args:
        folders: result folders, or folders of result folders.

    Raises:
        UsageError: a folder is neither.
    """
    found = dict[Path, None]()
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob(f"*/{BOARD}"))
        mine = [folder, *inside] if (folder / BOARD).is_file() else inside
        if not mine:
            raise UsageError(
                f"index: expected a folder with {BOARD}, or folders that have one, got {folder}. "
                "Run python -m bench report --out DIR first."
            )
        found |= dict.fromkeys(mine)
    return list(found)


def index_html(folders: Iterable[Path], target: Path) -> str:
    """Return the page over some result folders, the newest board first.

    Args:
        folders: result folders.
        target: file that the page will be; links are written from there.

    Raises:
        IntegrityError: a board's files do not parse or lack what they must have.
        MachineError: a file cannot be read.
    """
    lines = sorted((board_line(folder, target) for folder in folders), key=lambda line: line.created, reverse=True)
    script = page.template_text("index.js")
    css = Markup("".join(map(page.template_text, STYLES)))
    frame = {"css": css, "script": Markup(script), "csp": page.policy(script)}
    groups = sorted({line.data for line in lines})
    return page.environment().get_template("index.html").render(lines=lines, groups=groups, **frame)


def board_line(folder: Path, target: Path) -> BoardLine:
    """Return the line of one board.

    Args:
        folder: result folder.
        target: file of the index.

    Raises:
        IntegrityError: its files do not parse or lack what they must have.
    """
    board, manifest = (_read(folder / name) for name in (BOARD, MANIFEST))
    try:
        return _line(board, manifest, _link(folder, target))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise IntegrityError(
            f"{folder}: expected {BOARD} and {MANIFEST} as report writes them, got none of {error}. "
            f"Run python -m bench report --out {folder}."
        ) from error


def _line(board: Mapping[str, Any], manifest: Mapping[str, Any], link: str) -> BoardLine:
    ranking, rows, threat = board["ranking"], board["rows"], manifest["suite"].get("threat")
    ranked = [row for row in rows if row["rank"] is not None] if ranking else []
    best = ranked[0] if ranked else None
    n, reached = int(best["n"]) if best else 0, ""
    if best:
        cell = best["cells"][ranking]
        value, low, high = (None if cell[k] is None else float(cell[k]) for k in ("value", "low", "high"))
        reached = f"{formatting.percent(value, n)}\u00a0%"
        if low is not None and high is not None:
            reached += f" [{formatting.percent(low, n)}, {formatting.percent(high, n)}]"
    facts, made = manifest["data"], manifest["environment"]
    return BoardLine(
        link=link,
        suite=one_line(str(board["suite"])),
        data=one_line(str(facts["name"])),
        original=bool(facts["original"]),
        threat=_threat(threat) if threat and ranking else "",
        best=one_line(str(best["defense"])) if best else "",
        reached=reached,
        tied=sum(row["rank_low"] == 1 for row in ranked[1:]),
        rows=len(rows),
        n=n,
        created=str(manifest["created"]),
        bench=" ".join(one_line(str(v)) for v in (made["bench"], str(made.get("commit") or "")[:10]) if v),
    )


def _threat(threat: Mapping[str, Any]) -> str:
    return f"{formatting.norm_symbol(str(threat['norm']))}\u00a0≤\u00a0{float(threat['eps']):g}"


def _link(folder: Path, target: Path) -> str:
    if not (folder / PAGE).is_file():
        return ""
    relative = Path(os.path.relpath((folder / PAGE).resolve(), target.resolve().parent))
    return quote(relative.as_posix())


def _read(path: Path) -> Mapping[str, Any]:
    """Return a JSON object of a file.

    Raises:
        IntegrityError: the file is missing, too large, or holds something else.
    """
    advice = f"Run python -m bench report --out {path.parent}."
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        got = "none" if not path.is_file() else f"{path.stat().st_size / 1e6:.0f} MB"
        raise IntegrityError(f"{path}: expected a JSON file of at most {MOST_BYTES / 1e6:.0f} MB, got {got}. {advice}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: expected JSON, got {error}. {advice}") from error
    if not isinstance(found, dict):
        raise IntegrityError(f"{path}: expected a JSON object, got {type(found).__name__}. {advice}")
    return found
