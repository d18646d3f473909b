"""Data that a large page holds compressed: its script unfolds them where a reader asks for them."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Final

from markupsafe import Markup

from bench.reports import formatting
from bench.reports.board.model import Board

# Rows up to which everything stands in the page as it is: it can be read, printed and searched without a script. Two
# hundred rows would take 30 MB that way, and a browser many seconds; packed they take a tenth.
INLINE: Final = 20


def is_large(board: Board) -> bool:
    """Tell whether the page of a board holds the details of its rows compressed."""
    return len(board.rows) > INLINE


def packed(data: object) -> Markup:
    """Return plain data as base64 of raw DEFLATE (RFC 1951) of its JSON, which a browser unfolds by itself.

    Args:
        data: plain data; markup counts as text.
    """
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return Markup(base64.b64encode(deflater.compress(text.encode()) + deflater.flush()).decode())


def pairs_data(board: Board) -> dict[str, object]:
    """Return every pair compared, as the script shows the pairs of one defense.

    Args:
        board: what was measured.

    Returns:
        `names`: the ranked defenses, best first; `pairs`: place of the higher and of the lower in them, then the cells
        of the table as texts, the images that only one keeps as numbers.
    """
    names = [row.defense for row in board.rows if row.rank is not None]
    places = {name: place for place, name in enumerate(names)}
    return {
        "names": names,
        "pairs": [
            [
                places[pair.a],
                places[pair.b],
                formatting.points(pair.difference),
                f"{formatting.points(pair.low)} to {formatting.points(pair.high)}",
                pair.only_a,
                pair.only_b,
                formatting.p_value(pair.p_holm),
                "different" if pair.p_holm < 0.05 else "tied",
            ]
            for pair in board.pairs
        ],
    }
