"""Write the tables of docs/museum.md from the stored run: `python -m benchmarks.museum`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.cli.museum_table import markdown_tables
from bench.trust.museum import STORED, read_report

DOCUMENT: Final = Path(__file__).resolve().parents[1] / "docs" / "museum.md"
BEGIN, END = "<!-- tables: python -m benchmarks.museum -->\n", "<!-- end of the tables -->\n"


def with_tables(text: str, stored: Path = STORED) -> str:
    """Return a document with what stands between the two marks replaced by the tables of a stored run.

    Args:
        text: the document.
        stored: what `doctor --museum --save FILE` wrote.
    """
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{markdown_tables(read_report(stored))}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_tables(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
