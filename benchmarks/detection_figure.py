"""Draw the detection curves of a saved measurement, and print its table in Markdown.

Run `python -m bench doctor --detection --full --save FILE.json`, then
`python -m benchmarks.detection_figure FILE.json docs/detection.png`. The shipped measurement is
bench/trust/measured/detection.json.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypedDict

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLUMNS: Final = 2  # of panels


class Level(TypedDict):
    """What is read of a level of hardness."""

    hardness_bits: float | None
    own_decoys: bool


class Attack(TypedDict):
    """What is read of an attack."""

    attack: str
    family: str
    library: str
    used_by_suites: bool
    share: list[float]
    interval: list[tuple[float, float]]
    limit_bits: float
    limit_between: tuple[float, float | None]


class Record(TypedDict):
    """What is read of a saved measurement."""

    levels: list[Level]
    attacks: list[Attack]
    required_recall: float


def draw(record: Record, out: Path) -> None:
    """Draw a panel per family: an attack's line with its 95 % band over the levels at which every class has decoys."""
    levels = [i for i, level in enumerate(record["levels"]) if level["own_decoys"]]
    hardness = [record["levels"][i]["hardness_bits"] or math.nan for i in levels]
    families = list(dict.fromkeys(attack["family"] for attack in record["attacks"]))
    rows = -(-len(families) // COLUMNS)
    canvas, grid = plt.subplots(rows, COLUMNS, figsize=(11, 2.9 * rows), layout="constrained", sharex=True, sharey=True)
    for axes, family in zip(grid.flat, families, strict=False):
        for attack in record["attacks"]:
            if attack["family"] == family:
                _line(axes, attack, hardness, levels)
        axes.axhline(100 * record["required_recall"], color="0.6", lw=0.8)
        axes.set_title(family, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1, 1.02), handlelength=2.6)
    for axes in grid.flat[len(families) :]:
        axes.set_axis_off()
    grid.flat[0].set(ylim=(-2, 102))
    canvas.supxlabel(
        "hardness: −log2 of the share of uniform starts whose largest piece is the planted one, bits", fontsize=10
    )
    canvas.supylabel("planted adversarial examples found, %", fontsize=10)
    canvas.savefig(out, dpi=100, metadata={"Software": None})
    plt.close(canvas)


def _line(axes: Axes, attack: Attack, hardness: Sequence[float], levels: Sequence[int]) -> None:
    """Draw an attack's curve: thick if the suites use it, thin and dashed if it is another library's."""
    width = 3.0 if attack["used_by_suites"] else 1.2 if attack["library"] else 1.8
    share = [100 * attack["share"][i] for i in levels]
    dashes = (0, (4, 1.5)) if attack["library"] else "-"
    (line,) = axes.plot(hardness, share, linestyle=dashes, lw=width, marker="o", ms=3, label=attack["attack"])
    low, high = ([100 * attack["interval"][i][end] for i in levels] for end in (0, 1))
    axes.fill_between(hardness, low, high, color=line.get_color(), alpha=0.1, lw=0)


def table(record: Record) -> list[str]:
    """Return the lines of the table: percent found with its interval at each level, and the limit in bits."""
    heads = [f"{level['hardness_bits']:.2f}" + ("" if level["own_decoys"] else "\\*") for level in record["levels"]]
    lines = [f"| hardness, bits | {' | '.join(heads)} | limit |", "|---" * (len(heads) + 2) + "|"]
    for attack in record["attacks"]:
        name = f"**{attack['attack']}**" if attack["used_by_suites"] else attack["attack"]
        cells = [
            f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
            for share, (low, high) in zip(attack["share"], attack["interval"], strict=True)
        ]
        beyond = "≥ " if attack["limit_between"][1] is None else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {beyond}{attack['limit_bits']:.1f} |")
    return lines


if __name__ == "__main__":
    saved: Record = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    draw(saved, Path(sys.argv[2]))
    print(*table(saved), sep="\n")
