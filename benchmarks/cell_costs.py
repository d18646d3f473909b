"""Print what the cells of a result folder have counted: `python -m benchmarks.cell_costs --out results/digits`.

One line per evaluation and per defense: images passed forward and backward per image that the cell goes through, mean
over the models, and the seconds by the clock. Then the CPU time of all cells and the share of each kind.
bench/running/progress/costs.toml holds such counts; without any earlier run, the time that is left is estimated from
them.
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


def shares(store: Store) -> dict[str, float]:
    """Return kind of cell (training, or an evaluation's name) to the CPU seconds of all its cells, largest first."""
    found: dict[str, float] = {}
    for kind in ("train", "evaluation"):
        for cell in store.cells(kind):
            name = "training" if kind == "train" else str(cell.spec["evaluation"])
            found[name] = found.get(name, 0.0) + float(cell.info.get("cpu_seconds") or 0.0)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


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
        by_kind = shares(store)
        total = sum(by_kind.values())
        print(f"all cells: {total:.0f} CPU-seconds")
        for name, seconds in by_kind.items():
            print(f"  {name}: {seconds:.1f} s, {seconds / max(total, 1e-9):.1%}")


if __name__ == "__main__":
    main()
