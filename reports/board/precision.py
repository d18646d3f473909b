"""What a row's trainings in a fast precision were tried against, in words."""

from __future__ import annotations

from collections.abc import Iterator

from bench.reports.board.model import Row


def gate_sentences(row: Row) -> Iterator[str]:
    """Yield, for each seed that was trained in a precision chosen for its speed, how fp32 compared beforehand.

    Args:
        row: the defense, with its runs.

    Yields:
        A sentence with the differences and what they may be at most.
    """
    for seed, run in row.runs.items():
        gate = run.training.get("precision_gate")
        if gate:
            differences = ", ".join(
                f"{name} by {100 * by:.2g}\u00a0% (at most {100 * bound:g}\u00a0%)"
                for name, (by, bound) in gate["differences"].items()
            )
            yield (
                f"Trained in {gate['fast']['precision']} (seed {seed}). Short trainings beforehand in it and in "
                f"{gate['full']['precision']}, from the same seed on {gate['images']:,} images, differed in "
                f"{differences}."
            )
