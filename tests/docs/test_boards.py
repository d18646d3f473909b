"""The measured boards of docs/results: they verify from their packs alone, and README says what they say."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks import board_table

ROOT = Path(__file__).resolve().parents[2]
PACKS = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/pack.json"))
ROW = {
    "defense": "lcnn:lambda_beta=0.01",
    "clean_accuracy": 0.7525,
    "pgd_l2_0.1": 0.5,
    "pgd_l2_0.1_low": 0.4,
    "autoattack_l2_0.1": 0.4912,
    "autoattack_l2_0.1_low": 0.42,
    "autoattack_l2_0.1_high": 0.56,
    "curvature": 9.8765,
    "train_flops": None,
    "trust": "A",
}
MEASURED, NOT_MEASURED = [{"by_seed": {"0": "holds"}}, {"by_seed": {}}], [{"by_seed": {}}]
WHY = "holds on 0, fails on 0, undecided on 2 of 2 seeds"
CLAIMS = [
    {"title": "Low.", "verdict": "reproduced", "explanation": "reproduced on 2 of 2 seeds", "conditions": MEASURED},
    {"title": "Fast.", "verdict": "undecided", "explanation": WHY, "conditions": MEASURED},
    {"title": "Stable.", "verdict": "undecided", "explanation": "not measured: x", "conditions": NOT_MEASURED},
]
BOARD = {"ranking": "autoattack_l2_0.1", "rows": [ROW], "claims": {"claims": CLAIMS}}
LINES = [
    "|  | clean % | pgd_l2_0.1 % | autoattack_l2_0.1 % [95 %] | curvature | operations × | trust |",
    "|---|---:|---:|---:|---:|---:|---|",
    "| `lcnn:lambda_beta=0.01` | 75.2 | 50.0 | 49.1 [42.0, 56.0] | 9.88 | – | A |",
    "",
    "| claim of the paper | verdict |",
    "|---|---|",
    "| Low. | reproduced on 2 of 2 seeds |",
    "| Fast. | undecided: holds on 0, fails on 0, undecided on 2 of 2 seeds |",
]


def test_a_board_becomes_a_table_and_verdicts() -> None:
    assert board_table.lines(BOARD) == LINES
    assert board_table.lines({**BOARD, "claims": None}) == LINES[:3]


def test_a_pack_is_written_into_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, page = tmp_path / "small", tmp_path / "page.md"
    pack.mkdir()
    with zipfile.ZipFile(pack / "board.zip", "w") as archive:
        archive.writestr("leaderboard.json", json.dumps(BOARD))
    page.write_text("a\n\n<!-- board small -->\n\nold\n\n<!-- end of small -->\n\nb\n")
    monkeypatch.setattr(sys, "argv", ["board_table", str(pack), "--into", str(page)])
    board_table.main()
    text = "\n".join(LINES)
    assert page.read_text() == f"a\n\n<!-- board small -->\n\n{text}\n\n<!-- end of small -->\n\nb\n"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="expected <!-- board small -->"):
        board_table.main()


def test_the_pages_have_the_boards_that_are_there_and_no_other() -> None:
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/reproduction.md")]
    assert sum(page.count("<!-- board ") for page in pages) == len(PACKS)
    for pack in PACKS:
        places = [(page, place) for page in pages if (place := board_table.between(page, pack.name))]
        assert len(places) == 1, f"{pack.name}: expected in README or docs/reproduction.md, got {len(places)} places"
        page, place = places[0]
        assert page[slice(*place)].splitlines() == board_table.lines(board_table.leaderboard(pack))


def test_no_pack_names_a_place_of_the_machine_that_made_it() -> None:
    for pack in PACKS:
        with zipfile.ZipFile(pack / "store.zip") as store, zipfile.ZipFile(pack / "board.zip") as board:
            texts = [(pack / "leaderboard.html").read_bytes(), board.read("manifest.json"), store.read("bench.db")]
        for text in texts:
            assert not re.findall(rb"--(?:data|out|suite|include|model|weights)[ =]/", text)


@pytest.mark.slow
def test_every_pack_verifies_by_itself(cli) -> None:
    for pack in PACKS:
        done = cli("verify", "--out", pack)
        assert done.code == 0, done.out + done.err
        assert sum(file.stat().st_size for file in pack.rglob("*")) <= 15e6
