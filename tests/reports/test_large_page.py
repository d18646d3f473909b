"""The page of a board of many rows: what it holds compressed is what a small page shows, and it is light."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from markupsafe import Markup

from bench.reports.board.model import Board
from bench.reports.exports import csv, robustbench
from bench.reports.figures import gradient_stability, plot_data, rank_correlation
from bench.reports.figures.accuracy_curve import accuracy_against_eps
from bench.reports.figures.cost_against_robustness import cost_against_robustness
from bench.reports.html import packed, page, page_model


@pytest.fixture(scope="module")
def inline(board: Board) -> str:
    """Return the page of the usual board, whose rows are few."""
    return page.render(board)


@pytest.fixture(scope="module")
def html(board: Board) -> str:
    """Return the page of the same board as that of a large one is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "INLINE", len(board.rows) - 1)
        return page.render(board)


def unfolded(html: str, of: str) -> Any:
    """Return what a compressed block of the page holds."""
    found = re.search(rf'<script type="text/plain" {of} data-packed>([^<]*)</script>', html)
    assert found is not None
    return json.loads(zlib.decompress(base64.b64decode(found[1]), wbits=-zlib.MAX_WBITS))


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", html)


def test_every_part_is_what_a_small_page_shows(board: Board, html: str, inline: str) -> None:
    parts, whole = unfolded(html, 'id="parts"'), plain(inline)
    places = [int(place) for place in re.findall(r'data-part="(\d+)"', html)]
    assert places == list(range(len(board.rows) + 1)), "the folded figures, then a section per row"
    assert len(parts) == len(board.rows) + 1
    for part in parts:
        assert plain(part).strip() in whole
    folded = re.findall(r'data-holds="([^"]*)"', html)[0].split()
    assert [f for f in folded if f'id="{f}"' not in parts[0]] == []
    assert [f for f in folded if f'href="#{f}"' not in html] == []
    for row in board.rows:
        assert f'id="defense-{row.anchor}"' in html
        assert f'id="row-{row.anchor}"' in html


def test_the_pairs_are_those_of_the_table(board: Board, html: str, inline: str) -> None:
    data = unfolded(html, 'id="pairs-data"')
    table = inline[inline.index('id="pairs"') :]
    table = table[: table.index("</table>")]
    texts = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in re.findall(r"<tr><th scope=\"row\".*?</tr>", table)
    ]
    shown = [[unescape(re.sub(r"<.*?>", "", cell)) for cell in line] for line in texts]
    names = data["names"]
    assert [[names[a], names[b], *map(str, cells)] for a, b, *cells in data["pairs"]] == shown
    assert len(shown) == len(board.pairs) > 20
    assert "<tbody>\n</tbody>" in html[html.index('id="pairs-of"') :]


def test_downloads_and_images_of_pairs_are_the_same(board: Board, html: str, inline: str) -> None:
    assert unfolded(html, 'data-of="leaderboard.csv"') == csv.csv_text(board)
    assert base64.b64decode(unfolded(html, 'data-of="model_info.zip"')) == robustbench.archive(board)
    small = re.search(r'id="pair-data">(.*?)</script>', inline, re.S)
    assert small is not None
    assert unfolded(html, 'id="pair-data"') == json.loads(small[1])


def test_it_is_smaller_and_always_the_same(html: str, inline: str, board: Board) -> None:
    assert len(html) < 0.6 * len(inline)
    assert packed.packed({"b": 1, "a": ["<", Markup("</script>")]}) == packed.packed({"a": ["<", "</script>"], "b": 1})
    assert not packed.is_large(board)
    assert packed.is_large(replace(board, rows=board.rows * 3))


def test_curves_and_panels_show_the_first_rows_and_the_page_says_so(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot_data, "MOST", 3)
    first, tables = [row.title for row in board.rows[:3]], plot_data.tables(board)
    stability, cost = gradient_stability.gradient_stability(board, tables), cost_against_robustness(board, tables)
    correlation, curve = rank_correlation.rank_correlation(board, tables), accuracy_against_eps(board, tables)
    assert stability is not None
    assert [panel.title for panel in stability.panels] == first
    assert correlation is not None
    assert {str(line[0]) for line in correlation.numbers} == set(first)
    assert cost is not None
    assert len(cost.numbers) == len(board.rows), "a mark per defense"
    assert curve is not None
    assert board.rows[-1].title in curve.title, "the last of all rows, not of those drawn"
    assert f"show the first 3 of {len(board.rows)} rows" in page_model.undrawn(board, plot_data.drawn(board))
