"""The table and the verdicts of a measured board as README has them.

    python -m benchmarks.board_table docs/results/NAME              # a pack; or a result folder
    python -m benchmarks.board_table docs/results/NAME --into README.md

README holds them between two comments, `<!-- board NAME -->` and `<!-- end of NAME -->`; `--into` writes what is
between them, and a test holds both to be equal.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MISSING = "–"


def leaderboard(folder: Path) -> Mapping[str, Any]:
    """Return leaderboard.json of a pack or a result folder.

    Args:
        folder: either of them.
    """
    archive = folder / "board.zip"
    if archive.is_file():
        with zipfile.ZipFile(archive) as files:
            text = files.read("leaderboard.json").decode()
    else:
        text = (folder / "leaderboard.json").read_text(encoding="utf-8")
    board: Mapping[str, Any] = json.loads(text)
    return board


def lines(board: Mapping[str, Any]) -> list[str]:
    """Return the Markdown lines: a table of the rows, and the verdict of each claim of which anything was measured.

    Args:
        board: content of leaderboard.json.
    """
    ranking, first = str(board["ranking"]), board["rows"][0]
    attacked = [name for name in first if re.fullmatch(r"pgd_l\w+_[\d.]+", name) and name != ranking]
    heads = ["", "clean %", *(f"{name} %" for name in attacked), f"{ranking} % [95 %]", "curvature", "operations ×"]
    found = [f"| {' | '.join([*heads, 'trust'])} |", f"|---|{'---:|' * (len(heads) - 1)}---|"]
    for row in board["rows"]:
        shares = [_percent(row.get(name)) for name in ("clean_accuracy", *attacked)]
        ends = f"{_percent(row.get(f'{ranking}_low'))}, {_percent(row.get(f'{ranking}_high'))}"
        cells = [f"`{row['defense']}`", *shares, f"{_percent(row.get(ranking))} [{ends}]"]
        cells += [_number(row.get("curvature")), _number(row.get("train_flops")), row.get("trust") or MISSING]
        found.append(f"| {' | '.join(cells)} |")
    claims = [c for c in (board.get("claims") or {}).get("claims", []) if any(k["by_seed"] for k in c["conditions"])]
    if claims:
        found += ["", "| claim of the paper | verdict |", "|---|---|"]
        found += [f"| {claim['title']} | {_verdict(claim)} |" for claim in claims]
    return found


def _verdict(claim: Mapping[str, Any]) -> str:
    verdict, why = str(claim["verdict"]), str(claim["explanation"])
    return why if why.startswith(verdict) else f"{verdict}: {why}"


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g}"


def between(page: str, name: str) -> tuple[int, int] | None:
    """Return where the lines of a board stand on a page, begin and end; None where they do not.

    Args:
        page: the text.
        name: of the board.
    """
    mark = re.escape(name)
    found = re.search(rf"<!-- board {mark} -->\n\n(?P<text>.*?)\n\n<!-- end of {mark} -->", page, re.S)
    return None if found is None else found.span("text")


def main() -> None:
    """Print the lines, or write them into a page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path, help="a pack, or a result folder")
    parser.add_argument("--into", type=Path, help="page with the two comments")
    options = parser.parse_args()
    text = "\n".join(lines(leaderboard(options.folder)))
    if options.into is None:
        print(text)
        return
    page, name = options.into.read_text(encoding="utf-8"), options.folder.resolve().name
    place = between(page, name)
    if place is None:
        raise SystemExit(f"{options.into}: expected <!-- board {name} --> and <!-- end of {name} -->, got neither.")
    options.into.write_text(page[: place[0]] + text + page[place[1] :], encoding="utf-8")


if __name__ == "__main__":
    main()
