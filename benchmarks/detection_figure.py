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

PEERS: Final = ("foolbox", "cleverhans", "torchattacks", "official")


class Level(TypedDict):
    """What is read of a level of hardness."""

    hardness_bits: float | None
    own_decoys: bool


class Attack(TypedDict):
    """What is read of an attack."""

    attack: str
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
    """Draw one line with its 95 % band per attack over the levels at which every class has decoys."""
    levels = [i for i, level in enumerate(record["levels"]) if level["own_decoys"]]
    hardness = [record["levels"][i]["hardness_bits"] or math.nan for i in levels]
    canvas, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for attack in record["attacks"]:
        _line(axes, attack, hardness, levels)
    axes.axhline(100 * record["required_recall"], color="0.6", lw=0.8)
    axes.set(
        xlabel="hardness: −log2 of the share of uniform starts whose largest piece is the planted one, bits",
        ylabel="planted adversarial examples found, %",
        ylim=(-2, 102),
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    canvas.savefig(out, dpi=120, metadata={"Software": None})


def _line(axes: Axes, attack: Attack, hardness: Sequence[float], levels: Sequence[int]) -> None:
    """Draw an attack's curve: thick if the suites use it, dotted if it is another library's."""
    style = ":" if attack["attack"].startswith(PEERS) else "-"
    width = 3.0 if attack["used_by_suites"] else 1.3
    share = [100 * attack["share"][i] for i in levels]
    (line,) = axes.plot(hardness, share, style, lw=width, marker="o", ms=3, label=attack["attack"])
    low, high = ([100 * attack["interval"][i][end] for i in levels] for end in (0, 1))
    axes.fill_between(hardness, low, high, color=line.get_color(), alpha=0.12, lw=0)


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
