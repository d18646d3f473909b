"""Print what the cells of a result folder have counted: `python -m benchmarks.cell_costs --out results/digits`.

One line per evaluation and per defense: images passed forward and backward per image that the cell goes through, mean
over the models, and the seconds by the clock. bench/running/progress/costs.toml holds such counts; without any earlier
run, the time that is left is estimated from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from bench.store.records import CellRecord
from bench.store.store import Store


def evaluations(store: Store) -> dict[str, list[CellRecord]]:
    """Return name of an evaluation to its finished cells."""
    found: dict[str, list[CellRecord]] = {}
    for cell in store.cells("evaluation"):
        if cell.status == "done" and cell.info.get("images"):
            found.setdefault(str(cell.spec["evaluation"]), []).append(cell)
    return found


def operations(store: Store) -> dict[str, float]:
    """Return name of a defense to the operations of a training step per image, as a ratio to standard's."""
    cells = {str(c.spec["defense"]): c.info for c in store.cells("train") if c.status == "done"}
    counts = {name: float(info.get("flops_per_image") or 0.0) for name, info in cells.items()}
    base = counts.get("standard") or 1.0
    return {name: count / base for name, count in counts.items()}


def main() -> None:
    """Print the counts of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, help="a result folder")
    with Store.open(parser.parse_args().out) as store:
        for name, cells in evaluations(store).items():
            per_image = [
                mean(cell.info.get(kind, 0) / cell.info["images"] for cell in cells)
                for kind in ("forwards", "backwards")
            ]
            seconds = mean(cell.seconds or 0.0 for cell in cells)
            print(f"{name}: forwards {per_image[0]:.2f}, backwards {per_image[1]:.2f} per image; {seconds:.2f} s")
        for name, ratio in operations(store).items():
            print(f"train {name}: {ratio:.2f} times standard's operations")


if __name__ == "__main__":
    main()
